"""Routes of jobs: /prompt, /queue, /history, /interrupt, /free, and /api/jobs with its view of a job."""

from __future__ import annotations

import asyncio
import math
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from aiohttp import web

from ....workflows.save_first import save_first
from ...protocol import Engine
from ..execution.calls import Reporter, shown
from ..execution.jobs import Job, JobQueue
from ..execution.registry import Registry
from ..execution.validation import validate
from .messages import BODIES, Refused, bad_request, json_answer, json_object

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_ENDS = {"execution_success": "completed", "execution_error": "failed", "execution_interrupted": "cancelled"}
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")


class JobRoutes:
    """Submitting jobs, looking at them, cancelling them."""

    def __init__(self, queue: JobQueue, registry: Registry, reporter: Reporter, engine: Engine) -> None:
        self._engine = engine
        self._queue = queue
        self._registry = registry
        self._reporter = reporter
        self._number = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/prompt", self.get_prompt),
            web.post("/prompt", self.post_prompt),
            web.get("/queue", self.get_queue),
            web.post("/queue", self.post_queue),
            web.get("/history", self.get_history),
            web.post("/history", self.post_history),
            web.get("/history/{prompt_id}", self.get_history_entry),
            web.post("/interrupt", self.post_interrupt),
            web.post("/free", self.post_free),
        ]

    def api_routes(self) -> list[web.RouteDef]:
        """The routes that exist under /api only."""
        return [
            web.get("/api/jobs", self.get_jobs),
            web.get("/api/jobs/{job_id}", self.get_job),
            web.post("/api/jobs/{job_id}/cancel", self.cancel_job),
        ]

    def status(self) -> dict[str, Any]:
        """The length of the queue, the running job included."""
        return {"exec_info": {"queue_remaining": self._queue.remaining()}}

    async def get_prompt(self, request: web.Request) -> web.Response:
        return json_answer(self.status())

    async def post_prompt(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        number = self._take_number(body)
        if "prompt" not in body:
            raise bad_request("no_prompt", "No prompt provided")
        prompt_id = _prompt_id(body.get("prompt_id"))
        extra_data = _extra_data(body)
        targets = None if body.get("partial_execution_targets") is None else _ids(body, "partial_execution_targets")
        prompt = save_first(body["prompt"], targets)
        verdict = await asyncio.to_thread(validate, prompt, self._registry, self._reporter, targets)
        if verdict.error is not None:
            return json_answer({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        size = request.app[BODIES].size_of(request)
        if not self._queue.put(Job(number, prompt_id, prompt, extra_data, tuple(verdict.outputs), size)):
            raise Refused(429, "queue_full", "Too many jobs wait: the engine takes no more now.")
        self._engine.expect(prompt)
        return json_answer({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})

    def _take_number(self, body: dict[str, Any]) -> float:
        """The job's place in the queue: the client's, or the next; with ``front`` before all others."""
        if "number" in body:
            try:
                number = float(body["number"])
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            if not math.isfinite(number):
                raise bad_request("invalid_prompt", f"number must be a number, not {shown(body['number'])!r}")
            return number
        number = -self._number if body.get("front") else self._number
        self._number += 1
        return number

    async def get_queue(self, request: web.Request) -> web.Response:
        running, waiting = self._queue.snapshot()
        return json_answer(
            {"queue_running": [job.as_list() for job in running], "queue_pending": [job.as_list() for job in waiting]}
        )

    async def post_queue(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        if body.get("clear"):
            self._queue.clear()
        for prompt_id in _ids(body, "delete"):
            self._queue.delete(prompt_id)
        return web.Response()

    async def get_history(self, request: web.Request) -> web.Response:
        return json_answer(
            self._queue.history(_whole_number(request, "max_items", None), _whole_number(request, "offset", -1) or 0)
        )

    async def get_history_entry(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        entry = self._queue.entry(prompt_id)
        return json_answer({} if entry is None else {prompt_id: entry})

    async def post_history(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        if body.get("clear"):
            self._queue.forget()
        for prompt_id in _ids(body, "delete"):
            self._queue.forget(prompt_id)
        return web.Response()

    async def post_interrupt(self, request: web.Request) -> web.Response:
        body = await json_object(request, optional=True)
        prompt_id = body.get("prompt_id") or None
        if not isinstance(prompt_id, str | None):
            raise bad_request("invalid_prompt_id", "prompt_id must be a string.")
        self._queue.interrupt(prompt_id)
        return web.Response()

    async def post_free(self, request: web.Request) -> web.Response:
        body = await json_object(request)
        if body.get("unload_models") or body.get("free_memory"):
            self._queue.ask_to_free()
        return web.Response()

    async def get_jobs(self, request: web.Request) -> web.Response:
        return json_answer(list_jobs(self._queue, request.query))

    async def get_job(self, request: web.Request) -> web.Response:
        view = job_view(self._queue, request.match_info["job_id"])
        if view is None:
            return json_answer({"error": "Job not found"}, status=404)
        return json_answer(view)

    async def cancel_job(self, request: web.Request) -> web.Response:
        return json_answer({"cancelled": self._queue.cancel(request.match_info["job_id"])})


def _prompt_id(given: Any) -> str:
    """The client's id, which must be a canonical UUID, or a new one."""
    if given is None:
        return str(uuid.uuid4())
    try:
        if isinstance(given, str) and str(uuid.UUID(given)) == given:
            return given
    except ValueError:
        pass
    raise bad_request(
        "invalid_prompt_id",
        "prompt_id must be a valid UUID",
        "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
        "omit it to let the server generate one",
    )


def _extra_data(body: dict[str, Any]) -> dict[str, Any]:
    extra_data = body.get("extra_data") or {}
    if not isinstance(extra_data, dict):
        raise bad_request("invalid_prompt", "extra_data must be an object.")
    kept = {key: value for key, value in extra_data.items() if key not in SECRETS}
    if body.get("client_id") is not None:
        kept["client_id"] = body["client_id"]
    if not isinstance(kept.get("client_id", ""), str):
        raise bad_request("invalid_prompt", f"client_id must be a string, not {shown(kept['client_id'])!r}.")
    return kept | {"create_time": int(time.time() * 1000)}


def _ids(body: dict[str, Any], name: str) -> list[str]:
    """The list of ids in a field of the body; empty when it has none."""
    ids = body.get(name) or []
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise bad_request("invalid_json", f"{name} must be a list of strings.")
    return ids


def _whole_number(request: web.Request, name: str, default: int | None) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise bad_request("invalid_query", f"{name} must be a whole number, not {shown(text)!r}")
    return int(text)


def job_view(queue: JobQueue, prompt_id: str) -> dict[str, Any] | None:
    """One job, with its graph and outputs once it has ended; None when it is not known."""
    running, waiting = queue.snapshot()
    for status, jobs in (("in_progress", running), ("pending", waiting)):
        for job in jobs:
            if job.prompt_id == prompt_id:
                return _queued(job, status)
    entry = queue.entry(prompt_id)
    if entry is None:
        return None
    *_, graph, extra_data, _ = entry["prompt"]
    workflow = {"prompt": graph, "extra_data": extra_data}
    return _ended(prompt_id, entry) | {
        "outputs": entry["outputs"],
        "execution_status": entry["status"],
        "workflow": workflow,
    }


def list_jobs(queue: JobQueue, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of jobs; ``query`` may have status, workflow_id, sort_by, sort_order, limit and offset."""
    statuses = _statuses(query.get("status", ""))
    jobs = [job for job in _all(queue) if job["status"] in statuses]
    if query.get("workflow_id"):
        jobs = [job for job in jobs if job.get("workflow_id") == query["workflow_id"]]
    jobs.sort(key=_sort_key(query.get("sort_by", "created_at")), reverse=_descending(query.get("sort_order", "desc")))
    limit, offset = _count(query, "limit", 1), _count(query, "offset", 0) or 0
    page = jobs[offset:] if limit is None else jobs[offset : offset + limit]
    more = offset + len(page) < len(jobs)
    return {"jobs": page, "pagination": {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}}


def _all(queue: JobQueue) -> Iterator[dict[str, Any]]:
    running, waiting = queue.snapshot()
    yield from (_queued(job, "in_progress") for job in running)
    yield from (_queued(job, "pending") for job in waiting)
    yield from (_ended(prompt_id, entry) for prompt_id, entry in queue.history().items())


def _queued(job: Job, status: str) -> dict[str, Any]:
    return {
        "id": job.prompt_id,
        "status": status,
        "priority": job.number,
        **_origin(job.extra_data),
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }


def _ended(prompt_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    number, _, _, extra_data, _ = entry["prompt"]
    messages = dict(entry["status"]["messages"])
    end = next(event for event in _ENDS if event in messages)
    files = list(_files(entry["outputs"]))
    view = {
        "id": prompt_id,
        "status": _ENDS[end],
        "priority": number,
        **_origin(extra_data),
        "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
        "execution_end_time": messages[end]["timestamp"],
        "execution_error": messages.get("execution_error"),
        "outputs_count": len(files),
        "previewable_outputs_count": len(files),
        "preview_output": min(files, key=lambda item: item.get("type") != "output", default=None),
    }
    return {key: value for key, value in view.items() if value is not None}


def _origin(extra_data: Mapping[str, Any]) -> dict[str, Any]:
    """When a job was made, and from which workflow of the editor."""
    pnginfo = extra_data.get("extra_pnginfo")
    workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
    workflow_id = workflow.get("id") if isinstance(workflow, dict) else None
    known = {"create_time": extra_data.get("create_time"), "workflow_id": workflow_id}
    return {key: value for key, value in known.items() if value is not None}


def _files(outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The files that a job's nodes reported."""
    for node_id, report in outputs.items():
        for kind, items in report.items():
            for item in items:
                if isinstance(item, dict) and "filename" in item:
                    yield {**item, "nodeId": node_id, "mediaType": kind}


def _statuses(text: str) -> tuple[str, ...]:
    wanted = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    unknown = [status for status in wanted if status not in STATUSES]
    if unknown:
        message = f"Invalid status value(s): {shown(', '.join(unknown))}. Valid values: {', '.join(STATUSES)}"
        raise bad_request("invalid_query", message)
    return wanted or STATUSES


def _sort_key(name: str) -> Callable[[Mapping[str, Any]], float]:
    keys: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "created_at": lambda job: job.get("create_time", 0),
        "execution_duration": lambda job: job.get("execution_end_time", 0) - job.get("execution_start_time", 0),
    }
    if name.lower() not in keys:
        raise bad_request("invalid_query", "sort_by must be 'created_at' or 'execution_duration'")
    return keys[name.lower()]


def _descending(order: str) -> bool:
    if order.lower() not in ("asc", "desc"):
        raise bad_request("invalid_query", "sort_order must be 'asc' or 'desc'")
    return order.lower() == "desc"


def _count(query: Mapping[str, str], name: str, least: int) -> int | None:
    if name not in query:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", query[name]) or int(query[name]) < least:
        raise bad_request("invalid_query", f"{name} must be a whole number from {least} on, not {shown(query[name])!r}")
    return int(query[name])
