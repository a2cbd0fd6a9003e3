"""The gateway as an ASGI app: its parts put together, started in order, stopped in the reverse order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from ..errors import RylaError
from ..workflows import warm_up
from ..workflows.best_of import NAME as BEST_OF
from ..workflows.manifest import available, load
from ..workflows.workflow import Workflow
from .backend import Backend, servers
from .children import Children, ChildSpec
from .database import Database, is_postgres
from .elsewhere import Elsewhere
from .endpoints import Endpoint
from .janitor import Janitor
from .job_files import DatabaseFiles, FolderFiles
from .jobs import Jobs
from .metrics import Metrics
from .openapi import components
from .options import Options
from .pages import Pages
from .peers import Peers
from .problems import described, problem
from .readiness import Readiness
from .routes import Routes
from .security import Guard
from .store import JobStore
from .webhooks import Webhooks

log = logging.getLogger(__name__)

_EXPOSED = [
    "Location", "Server-Timing", "X-Cost-USD", "X-Execution-Time-Sec", "X-Face-Similarity", "X-GPU-Type", "X-Job-Id",
    "X-LoRA-Used", "X-Prompt-Id", "X-Queue-Time-Sec", "X-Seed",
]  # fmt: skip


class Gateway:
    """One gateway; ``app`` is what a server serves.

    Args:
        children: engines to start and supervise, besides ``options.servers``.
        backend: what runs the jobs, in the place of both.

    Raises:
        RylaError: ``unknown_workflow``, ``invalid_workflow``, ``invalid_parameter``, ``not_writable``.
    """

    def __init__(self, options: Options, children: Sequence[ChildSpec] = (), backend: Backend | None = None) -> None:
        self.options = options
        self.workflows = enabled(options)
        self.children = Children(children, options.state / "engines")
        self.metrics = Metrics()
        self.backend = backend or servers(options, self.children)
        self.client = self.backend.client
        self.readiness = Readiness(
            options,
            self.client.servers,
            self.workflows,
            self.metrics,
            trouble=self.children.trouble,
            lookout=self.backend.lookout,
        )
        inputs = [child.inputs for child in children if child.inputs is not None]
        url = options.settings.jobs_url
        self.database = Database(url) if url and is_postgres(url) else None
        files = DatabaseFiles(self.database) if self.database else FolderFiles(options.state / "results")
        self.jobs = Jobs(
            options,
            self.client,
            self.workflows,
            self.metrics,
            self.readiness.gpu_of,
            self.backend.places,
            files,
            inputs,
        )
        self.store = JobStore(options.state, url, {"job": self.jobs.run, "webhook": self._webhook})
        self.jobs.elsewhere = Elsewhere(files, self.jobs.uploads, self.store)
        self.webhooks = Webhooks(options, self.store, self.metrics)
        self.jobs.store, self.jobs.on_end = self.store, self.webhooks.ended
        outputs = [child.outputs for child in children if child.outputs is not None]
        self._janitor = Janitor(self.jobs, options.limits, outputs)
        self.app = self._build()

    async def _webhook(self, message_id: str, record: dict[str, Any]) -> dict[str, Any]:
        return await self.webhooks.deliver(message_id, record)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything started; at the end what goes on is left to the next process."""
        async with AsyncExitStack() as stack:
            for name in ("results", "uploads"):
                (self.options.state / name).mkdir(parents=True, exist_ok=True)
            self.store.open()
            stack.callback(self.store.close)
            if self.database is not None:
                await self._join(self.database, stack)
            stack.push_async_callback(self.client.aclose)
            self.children.start()
            stack.push_async_callback(self.children.stop)
            stack.push_async_callback(self.jobs.abandon)
            self.readiness.start()
            stack.push_async_callback(self.readiness.stop)
            self._janitor.start()
            stack.push_async_callback(self._janitor.stop)
            yield

    async def _join(self, database: Database, stack: AsyncExitStack) -> None:
        """Become one of the gateways of a Postgres."""
        stack.callback(database.close)
        self.jobs.results.owner = self.store.identity
        peers = Peers(
            database, self.store.identity, self.store.take_over, self.jobs.give_up_moved, self.jobs.look_for_cancelled
        )
        await peers.start()
        stack.push_async_callback(peers.stop)

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, be no longer ready, and wait for the jobs that engines have."""
        self.readiness.draining = True
        await self.jobs.drain(seconds)

    # --- the app ---------------------------------------------------------------------------------------------------

    def _build(self) -> FastAPI:
        app = FastAPI(title="RYLA gateway", version="1", docs_url=None, redoc_url=None)
        scored = [name for name, workflow in self.workflows.items() if workflow.parameter(BEST_OF)]
        endpoints = [
            Endpoint(
                workflow,
                self.options,
                self.client,
                self.jobs,
                self.metrics,
                self.webhooks,
                self.readiness.require_disk,
                scored,
            )
            for workflow in self.workflows.values()
        ]
        router = APIRouter()
        for endpoint in endpoints:
            endpoint.mount(router)
        Routes(self.options, self.workflows, self.jobs, self.readiness, self.metrics).mount(router)
        Pages().mount(router)
        app.include_router(router)
        app.add_middleware(Guard, options=self.options)
        if self.options.origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=list(self.options.origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=_EXPOSED,
            )
        app.add_exception_handler(RylaError, self._refused)
        app.add_exception_handler(HTTPException, self._http_error)
        app.add_exception_handler(RequestValidationError, self._invalid)
        app.add_exception_handler(Exception, self._failed)
        models = [endpoint.model for endpoint in endpoints]
        app.openapi = lambda: self._openapi(app, models)  # type: ignore[method-assign]
        return app

    @staticmethod
    def _openapi(app: FastAPI, models: list[Any]) -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(components(models))
            app.openapi_schema = schema
        return app.openapi_schema

    # --- failures --------------------------------------------------------------------------------------------------

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RylaError)
        self.metrics.refused.labels(error.code).inc()
        log.info("%s", error.message, extra={"code": error.code, "method": request.method, "path": request.url.path})
        patience = error.details.get("retry_after") or (self.jobs.patience if error.entry.http_status == 503 else None)
        headers = {"Retry-After": str(patience)} if patience else {}
        return problem(described(error), headers=headers)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            refusal = RylaError("method_not_allowed", f"{request.url.path[:80]} does not take {request.method}.")
            return problem(described(refusal), headers=dict(error.headers or {}))
        if error.status_code == 404:
            return problem(described(RylaError("no_such_route", f"There is no {request.url.path[:80]} here.")))
        return problem(described(RylaError("invalid_request", str(error.detail)[:200])))

    async def _invalid(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return problem(described(RylaError("invalid_request", f"{name}: {first['msg']}.")))

    async def _failed(self, request: Request, error: Exception) -> Response:
        log.error("A request failed.", exc_info=error, extra={"method": request.method, "path": request.url.path})
        return problem(described(RylaError("internal_error", "The gateway failed to answer this request.")))


def enabled(options: Options) -> dict[str, Workflow]:
    """The workflows to serve by name.

    Raises:
        RylaError: ``unknown_workflow``, ``invalid_workflow``; ``invalid_parameter`` for one that cannot be warmed up.
    """
    names = options.workflows or tuple(available(options.settings))
    workflows = {name: load(name, options.settings) for name in names}
    for name in options.warm_up:
        if name not in workflows:
            raise RylaError("unknown_workflow", f"The workflow {name} to warm up with is not served.")
        if not warm_up.possible(workflows[name]):
            message = f"{name} cannot be warmed up: it needs more than a prompt."
            raise RylaError("invalid_parameter", message, hint="--warm-up flux-dev")
    return workflows
