"""An endpoint for each workflow: from a request to a stored job, and to its answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse

from ..errors import RylaError
from ..workflows.best_of import NAME as BEST_OF
from ..workflows.best_of import require_score
from ..workflows.workflow import BoundPrompt, Workflow
from .backend import Client
from .found import Found
from .job import JobSpec, LiveJob, job_id_of
from .jobs import Jobs
from .metrics import Metrics
from .models import check, request_model
from .openapi import endpoint_docs
from .options import Options, Token
from .requests import JSON, PICTURES, Wishes, accepted, fields, wishes
from .responses import answer, facts
from .runner import with_paths
from .uploads import from_text
from .urls import Fetcher
from .webhooks import Webhooks

_LEAST_TIMEOUT = 1.0


@dataclass(frozen=True)
class Asked:
    """One request to a workflow, checked.

    Attributes:
        kind: the media type of the answer.
        given: the parameters by their own names; of a picture the name of its upload.
        uploads: held until the job holds them.
    """

    kind: str
    given: Mapping[str, Any]
    uploads: tuple[str, ...]
    wishes: Wishes


class Endpoint:
    """``POST /<workflow>``.

    Args:
        scored: the names of the served workflows whose pictures have a face score.
    """

    def __init__(
        self,
        workflow: Workflow,
        options: Options,
        client: Client,
        jobs: Jobs,
        metrics: Metrics,
        webhooks: Webhooks,
        require_disk: Callable[[], None],
        scored: Sequence[str],
    ) -> None:
        self.workflow, self.model = workflow, request_model(workflow, options.limits)
        self._options, self._client, self._jobs, self._metrics = options, client, jobs, metrics
        self._fetcher, self._webhooks, self._require_disk = Fetcher(options), webhooks, require_disk
        self._scored = scored
        self._images = [parameter.name for parameter in workflow.parameters if parameter.type == "image"]
        self._format = workflow.parameter("format")

    def mount(self, router: APIRouter) -> None:
        """Add the route."""
        router.add_api_route(
            f"/{self.workflow.name}",
            self.post,
            methods=["POST"],
            summary=self.workflow.title,
            description=self.workflow.summary,
            operation_id=self.workflow.name.replace("-", "_"),
            tags=["workflows"],
            response_model=None,
            **endpoint_docs(self.model, self._images),
        )

    async def post(self, request: Request) -> Response:
        """Run the workflow, and answer as the request prefers."""
        self._require_disk()
        asked = await self._asked(request)
        token: Token | None = request.scope["state"].get("token")
        try:
            # Of a flood few at a time, so that the others' requests come between.
            async with self._jobs.door:
                found = await self._accept(asked, token)
        finally:
            self._jobs.uploads.release(asked.uploads)
        if asked.wishes.respond_async and not asked.wishes.wait:
            return self._later(found)
        if found.live is not None:
            with found.live.watched():
                return await self._waited(request, found, asked)
        return await self._waited(request, found, asked)

    # --- reading ---------------------------------------------------------------------------------------------------

    async def _asked(self, request: Request) -> Asked:
        wished = wishes(request)
        if wished.webhook:
            await self._webhooks.check(wished.webhook)
        kind = accepted(request.headers.get("accept", ""), (*self._kinds(), JSON))
        raw = await fields(request, self._options.limits)
        typed = not request.headers.get("content-type", "").lower().startswith("multipart/")
        if BEST_OF in raw:
            require_score(self.workflow.name, self.workflow.parameters, lambda: self._scored)
        given = check(self.model, self.workflow, raw, typed=typed)
        if self._format is not None and "format" not in given and kind in PICTURES:
            if PICTURES[kind] in self._format.choices:
                given["format"] = PICTURES[kind]
        elif self._format is not None and "format" in given and kind in PICTURES:
            kind = self._fixed(request, given["format"])
        uploads: list[str] = []
        try:
            for name in self._images:
                if name in given:
                    given[name] = await self._picture(name, given[name])
                    uploads.append(given[name])
        except BaseException:
            self._jobs.uploads.release(uploads)
            raise
        return Asked(kind, given, tuple(uploads), wished)

    def _kinds(self) -> tuple[str, ...]:
        """The types of pictures, the workflow's own default first."""
        default = f"image/{self._format.default}" if self._format is not None else "image/jpeg"
        return (default, *(kind for kind in PICTURES if kind != default))

    @staticmethod
    def _fixed(request: Request, name: Any) -> str:
        """The type that the body's own ``format`` asks for."""
        kind = f"image/{name}"
        return accepted(request.headers.get("accept", ""), (kind,)) if kind in PICTURES else kind

    async def _picture(self, name: str, value: Any) -> str:
        if isinstance(value, bytes):
            data = value
        elif self._options.url_inputs and value[:8].lower().startswith(("http://", "https://")):
            data = await self._fetcher.get(value, self._options.limits.image_bytes)
        else:
            data = await asyncio.to_thread(from_text, name, value)
        return await self._jobs.uploads.store(name, data)

    # --- accepting -------------------------------------------------------------------------------------------------

    async def _accept(self, asked: Asked, token: Token | None) -> Found:
        prompt = await self._bound(asked)
        effective = {**prompt.parameters, **{name: asked.given[name] for name in self._images}}
        owner, now = token.name if token else "", time.time()
        spec = JobSpec(
            workflow=self.workflow.name,
            parameters=effective,
            uploads=asked.uploads,
            owner=owner,
            accepted=now,
            deadline=now + self._options.limits.timeout,
            digest=self._digest(asked),
            webhook=asked.wishes.webhook,
        )
        job_id = job_id_of(owner, asked.wishes.key)
        return await self._jobs.accept(job_id, spec, prompt, token, keep=asked.wishes.keep)

    async def _bound(self, asked: Asked) -> BoundPrompt:
        values = with_paths(self.workflow, asked.given, self._jobs.uploads)
        if self._images:
            return await asyncio.to_thread(self._client.bind, self.workflow, values)
        return self._client.bind(self.workflow, values)

    def _digest(self, asked: Asked) -> str:
        told = json.dumps([self.workflow.name, asked.given, asked.wishes.webhook], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    # --- answering -------------------------------------------------------------------------------------------------

    def _later(self, found: Found) -> Response:
        told = {"Location": f"/jobs/{found.id}", "X-Job-Id": found.id, "Preference-Applied": "respond-async"}
        held = BackgroundTask(_ended, found.live) if self._options.hold and found.live is not None else None
        return JSONResponse(facts(found, self._jobs), 202, told, background=held)

    async def _waited(self, request: Request, found: Found, asked: Asked) -> Response:
        """The answer once the job has ended, the client's patience is over, or the client itself is gone."""
        limit = asked.wishes.wait if asked.wishes.respond_async else None
        if found.live is not None:
            await self._wait(request, found.live, limit)
            if found.live.moved:
                found = await self._jobs.find(found.id, found.spec.owner)
        if found.live is None and found.stored is None:
            left = max(0.0, found.spec.deadline - time.time()) if limit is None else limit
            found = replace(found, stored=await self._jobs.elsewhere.end(found.id, left))
        if found.outcome is None:
            return self._later(found)
        return await answer(found, asked.kind, self._jobs, self._metrics)

    async def _wait(self, request: Request, job: LiveJob, limit: float | None) -> None:
        gone: asyncio.Future[Any] = asyncio.ensure_future(_disconnected(request))
        ended: asyncio.Future[Any] = job.outcome
        try:
            await asyncio.wait({ended, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if job.outcome.cancelled() and not job.moved:
            raise RylaError("shutting_down", "The gateway was stopped; the job goes on when it is started again.")
        if gone.done() and not job.outcome.done() and not job.keep and job.watchers == 1:
            self._jobs.stop(job)


async def _ended(job: LiveJob) -> None:
    """Until a job has ended, or is left to the next process."""
    await asyncio.wait({job.outcome})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
