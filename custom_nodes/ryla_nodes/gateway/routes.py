"""The routes beside the workflows': jobs, what there is, and how the gateway is."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from ..errors import RylaError
from ..loras import ids
from ..loras.library import describe, of_machine
from ..workflows.parameter import Parameter
from ..workflows.workflow import Workflow
from . import events, metrics
from .found import Found
from .jobs import Jobs
from .openapi import problems
from .options import Options, Token
from .readiness import Readiness
from .requests import JSON, accepted
from .responses import answer, facts, offered

_MOST_JOBS = 200


class Routes:
    """Everything but ``POST /<workflow>``."""

    def __init__(
        self,
        options: Options,
        workflows: dict[str, Workflow],
        jobs: Jobs,
        readiness: Readiness,
        counts: metrics.Metrics,
    ) -> None:
        self._options, self._workflows, self._jobs = options, workflows, jobs
        self._readiness, self._metrics = readiness, counts

    def mount(self, router: APIRouter) -> None:
        """Add the routes."""
        job = problems(429, 503)
        result = {**job, **problems(406, 409, 410, 422, 500, 502, 504, 507)}
        for method, path, call, tag, more in (
            ("GET", "/jobs", self.list_jobs, "jobs", problems()),
            ("GET", "/jobs/{job_id}", self.get_job, "jobs", job),
            ("DELETE", "/jobs/{job_id}", self.delete_job, "jobs", job),
            ("GET", "/jobs/{job_id}/events", self.get_events, "jobs", job),
            ("GET", "/jobs/{job_id}/result", self.get_result, "jobs", result),
            ("GET", "/workflows", self.list_workflows, "about", problems()),
            ("GET", "/workflows/{name}", self.get_workflow, "about", problems()),
            ("GET", "/loras", self.list_loras, "about", problems()),
            ("GET", "/health", self.health, "state", problems()),
            ("GET", "/ready", self.ready, "state", {**problems(), 503: {"description": "Something is missing"}}),
            ("GET", "/metrics", self.get_metrics, "state", problems()),
        ):
            router.add_api_route(path, call, methods=[method], tags=[tag], response_model=None, responses=more)

    # --- jobs ------------------------------------------------------------------------------------------------------

    async def list_jobs(self, request: Request, limit: int = 50) -> Response:
        """The newest jobs of this token, the newest first."""
        found = await self._jobs.recent(_owner(request), max(1, min(limit, _MOST_JOBS)))
        return JSONResponse({"jobs": [facts(each, self._jobs) for each in found]})

    async def get_job(self, request: Request, job_id: str) -> Response:
        """A job: its state, and its end when it has one."""
        return JSONResponse(facts(await self._find(request, job_id), self._jobs))

    async def delete_job(self, request: Request, job_id: str) -> Response:
        """Cancel a job. Of one that has ended nothing changes."""
        found = await self._jobs.cancel(await self._find(request, job_id))
        return JSONResponse(facts(found, self._jobs), 200 if found.outcome else 202)

    async def get_events(self, request: Request, job_id: str, preview: bool = False) -> Response:
        """What happens to a job, as server-sent events: queued, node, step, fetching, done. Last-Event-ID resumes.

        With preview=1 also unfinished pictures, where the engine sends them.
        """
        found = await self._find(request, job_id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if found.live is not None:
            stream = found.live.log.stream(request.headers.get("last-event-id", ""), previews=preview)
            return StreamingResponse(stream, headers=headers, media_type=events.MEDIA_TYPE)
        if found.stored is None:
            return StreamingResponse(
                self._jobs.elsewhere.stream(found.id), headers=headers, media_type=events.MEDIA_TYPE
            )
        done = events.done(found.id, found.stored.state, found.stored.error)
        return Response(done, headers=headers, media_type=events.MEDIA_TYPE)

    async def get_result(self, request: Request, job_id: str, number: int = 0) -> Response:
        """The picture of a job that has ended, or the failure that it ended with."""
        found = await self._find(request, job_id)
        outcome = found.outcome
        if outcome is None:
            raise RylaError("job_not_finished", f"The job {found.id} goes on.")
        kind = JSON if not outcome.ok else accepted(request.headers.get("accept", ""), offered(outcome.pictures))
        return await answer(found, kind, self._jobs, self._metrics, max(0, number))

    async def _find(self, request: Request, job_id: str) -> Found:
        return await self._jobs.find(job_id, _owner(request))

    # --- what there is ---------------------------------------------------------------------------------------------

    async def list_workflows(self) -> Response:
        """The workflows: what each makes, and its parameters."""
        return JSONResponse({"workflows": [_workflow(each) for each in self._workflows.values()]})

    async def get_workflow(self, name: str) -> Response:
        """One workflow."""
        if name not in self._workflows:
            known = ", ".join(self._workflows)
            raise RylaError(
                "unknown_workflow", f"There is no workflow {name[:60]!r}; there are {known}.", hint="GET /workflows"
            )
        return JSONResponse(_workflow(self._workflows[name]))

    async def list_loras(self) -> Response:
        """The LoRAs that the engines offer, with family and trigger word where this machine can read the file."""
        local = await asyncio.to_thread(self._local_loras)
        offers = {
            ids.short_id(name)
            for probe in self._readiness.probes
            for name in _safe(probe.sight.models.get("loras", ()))
        }
        return JSONResponse({"loras": [{"id": each, **local.get(each, {})} for each in sorted(offers)]})

    def _local_loras(self) -> dict[str, dict[str, Any]]:
        shown = ("family", "rank", "trigger_word", "base_model", "code")
        rows = [(ids.short_id(file.name), describe(file)) for file in of_machine(self._options.settings).list()]
        return {each: {name: row[name] for name in shown if row.get(name)} for each, row in rows}

    # --- how it is -------------------------------------------------------------------------------------------------

    async def health(self) -> Response:
        """200 while the process serves requests, whatever the engines do."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """200 when jobs can be served; else 503 with each thing that is missing and what mends it."""
        told = self._readiness.told()
        if self._options.tokens and _token(request) is None:
            told = {"ready": told["ready"]}
        return JSONResponse(told, 200 if told["ready"] else 503)

    async def get_metrics(self) -> Response:
        """Metrics for Prometheus."""
        return Response(self._metrics.text(), media_type=metrics.MEDIA_TYPE)


def _token(request: Request) -> Token | None:
    token: Token | None = request.scope["state"].get("token")
    return token


def _owner(request: Request) -> str:
    token = _token(request)
    return token.name if token else ""


def _safe(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.casefold().endswith(ids.SUFFIX)]


def _workflow(workflow: Workflow) -> dict[str, Any]:
    return {
        "name": workflow.name,
        "title": workflow.title,
        "summary": workflow.summary,
        "endpoint": f"/{workflow.name}",
        "models": list(workflow.models),
        "parameters": [_parameter(each) for each in workflow.parameters],
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    told = {
        "name": parameter.name,
        "type": parameter.type,
        "help": parameter.help,
        "required": parameter.required,
        "default": parameter.default,
        "min": parameter.min,
        "max": parameter.max,
        "step": parameter.step,
        "choices": list(parameter.choices),
        "aliases": list(parameter.aliases),
    }
    return {name: value for name, value in told.items() if value is not None and value != []}
