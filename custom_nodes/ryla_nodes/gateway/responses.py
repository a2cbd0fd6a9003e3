"""What a job looks like to its client: a picture with headers, or the same facts as JSON."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.responses import JSONResponse, Response

from ..errors import RylaError
from .found import Found
from .job import Outcome, StoredPicture
from .jobs import Jobs
from .metrics import Metrics
from .problems import problem
from .requests import JSON
from .results import converted


def facts(found: Found, jobs: Jobs) -> dict[str, Any]:
    """A job as JSON; what is not known is left out."""
    outcome, live, spec = found.outcome, found.live, found.spec
    link = f"/jobs/{found.id}"
    told: dict[str, Any] = {
        "id": found.id,
        "workflow": spec.workflow,
        "state": live.state if live else outcome.state if outcome else "queued",
        "accepted": spec.accepted,
        "deadline": spec.deadline,
        "parameters": dict(spec.parameters),
        "links": {"self": link, "events": f"{link}/events", "result": f"{link}/result"},
    }
    if outcome is None:
        told["position"] = jobs.position(live) if live and live.state == "queued" else None
        if live and live.progress:
            told["progress"] = _progress(live.progress)
        told["prompt_id"] = live.prompt_id if live else None
    else:
        told |= _ending(found.id, outcome)
    return {name: value for name, value in told.items() if value not in (None, "")}


def _progress(progress: Any) -> dict[str, Any]:
    return {
        "phase": progress.phase.value,
        "node": progress.node,
        "step": progress.step,
        "steps": progress.steps,
        "nodes_done": progress.nodes_done,
        "nodes_total": progress.nodes_total,
    }


def _ending(job_id: str, outcome: Outcome) -> dict[str, Any]:
    pictures = [
        {
            "href": f"/jobs/{job_id}/result" + (f"?number={number}" if number else ""),
            "type": each.type,
            "bytes": each.bytes,
        }
        for number, each in enumerate(outcome.pictures)
    ]
    return {
        "finished": outcome.finished,
        "error": dict(outcome.error) if outcome.error else None,
        "pictures": pictures or None,
        "seed": outcome.seed,
        "prompt_id": outcome.prompt_id,
        "queue_seconds": _rounded(outcome.queued),
        "execution_seconds": _rounded(outcome.execution),
        "fetch_seconds": _rounded(outcome.fetch),
        "gpu": outcome.gpu,
        "cost_usd": None if outcome.cost_usd is None else round(outcome.cost_usd, 6),
        "lora_used": outcome.lora,
        "face_similarity": outcome.face_similarity,
        "best_of": [dict(each) for each in outcome.best_of] or None,
        "cached": outcome.cached or None,
        "warnings": list(outcome.warnings) or None,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def headers(found: Found, outcome: Outcome) -> dict[str, str]:
    """The headers of a picture; one whose fact is not known is left out."""
    parts = (("queue", outcome.queued), ("execution", outcome.execution), ("fetch", outcome.fetch))
    timing = ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts if seconds is not None)
    known = {
        "X-Job-Id": found.id,
        "X-Seed": outcome.seed,
        "X-Prompt-Id": outcome.prompt_id,
        "X-Execution-Time-Sec": None if outcome.execution is None else f"{outcome.execution:.3f}",
        "X-Queue-Time-Sec": None if outcome.queued is None else f"{outcome.queued:.3f}",
        "X-GPU-Type": outcome.gpu,
        "X-Cost-USD": None if outcome.cost_usd is None else f"{outcome.cost_usd:.6f}",
        "X-LoRA-Used": outcome.lora,
        "X-Face-Similarity": None if outcome.face_similarity is None else f"{outcome.face_similarity:.4f}",
        "Server-Timing": timing,
    }
    return {name: _ascii(str(value)) for name, value in known.items() if value not in (None, "")}


def _ascii(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)


def refusal(found: Found, outcome: Outcome) -> Response:
    """A job that did not succeed, as the failure that it ended with."""
    error = outcome.error or {"code": "internal_error", "message": "The job ended without a reason.", "hint": ""}
    return problem(
        {"hint": "", **error},
        job_id=found.id,
        prompt_id=outcome.prompt_id or None,
        seed=outcome.seed,
        headers={"X-Job-Id": found.id},
    )


async def answer(found: Found, kind: str, jobs: Jobs, metrics: Metrics, number: int = 0) -> Response:
    """An ended job as ``kind``: a type of picture, or JSON.

    Raises:
        RylaError: ``result_gone``, ``job_not_finished``.
    """
    outcome = found.outcome
    if outcome is None:
        raise RylaError("job_not_finished", f"The job {found.id} goes on.")
    if not outcome.ok:
        return refusal(found, outcome)
    told = headers(found, outcome)
    if kind == JSON:
        return JSONResponse(facts(found, jobs), headers=told)
    if number >= len(outcome.pictures):
        raise RylaError("result_gone", f"The job {found.id} has {len(outcome.pictures)} pictures.")
    picture = outcome.pictures[number]
    data = found.live.data if found.live and number == 0 else None
    if data is None:
        data = await jobs.results.read(found.id, picture)
    if kind != picture.type:
        data = await _convert(data, kind, found, metrics)
    return Response(data, headers=told, media_type=kind)


async def _convert(data: bytes, kind: str, found: Found, metrics: Metrics) -> bytes:
    began = time.monotonic()
    data = await asyncio.to_thread(converted, data, kind)
    metrics.encoded(found.spec.workflow, time.monotonic() - began)
    return data


def offered(pictures: tuple[StoredPicture, ...]) -> tuple[str, ...]:
    """The types that a stored result can be had in, its own first."""
    own = pictures[0].type if pictures else "image/jpeg"
    return (own, *(kind for kind in ("image/jpeg", "image/webp", "image/png", JSON) if kind != own))
