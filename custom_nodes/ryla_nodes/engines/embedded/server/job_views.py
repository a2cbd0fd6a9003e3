"""Jobs as /api/jobs shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..execution.jobs import Job, JobQueue
from .guard import bad_request

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_ENDS = {"execution_success": "completed", "execution_error": "failed", "execution_interrupted": "cancelled"}


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
        message = f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(STATUSES)}"
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
    if not query[name].isdecimal() or int(query[name]) < least:
        raise bad_request("invalid_query", f"{name} must be a whole number from {least} on, not {query[name]!r}")
    return int(query[name])
