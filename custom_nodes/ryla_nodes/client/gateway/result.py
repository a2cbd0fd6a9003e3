"""What a job at a gateway gives: the result of any client, and what only a gateway tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from ...errors import RylaError
from ..limits import Outage
from ..results import Format, Picture, Result, complete, identify
from ..scores import Candidate
from ..transport import CallFailed
from .api import Facts, GatewayApi
from .patience import Patience
from .workflow import NODE

_TRIES = 3


@dataclass(frozen=True)
class GatewayResult(Result):
    """``server`` is the gateway, ``prompt_id`` the id that the engine behind it had for the job.

    Attributes:
        job_id: the gateway's own id of the job: ``GET /jobs/JOB_ID``; "" when it never got there.
        gpu: the engine's GPU; "" when the gateway does not know it.
        cost_usd: what the job cost; None when the gateway does not know it.
        lora_used: the id of the LoRA that was applied; "" for none.
    """

    job_id: str = ""
    gpu: str = ""
    cost_usd: float | None = None
    lora_used: str = ""

    @property
    def told(self) -> dict[str, Any]:
        names = ("job_id", "gpu", "cost_usd", "lora_used", "face_similarity")
        return {name: getattr(self, name) for name in names}


def facts_of(facts: Facts) -> dict[str, Any]:
    """The fields of a result that a gateway's answer tells, less those of the times."""
    return {
        "prompt_id": str(facts.get("prompt_id") or ""),
        "job_id": str(facts.get("id") or ""),
        "gpu": str(facts.get("gpu") or ""),
        "cost_usd": number(facts.get("cost_usd")),
        "lora_used": str(facts.get("lora_used") or ""),
        "face_similarity": number(facts.get("face_similarity")),
        "candidates": candidates(facts.get("best_of")),
        "cached": bool(facts.get("cached")),
        "warnings": tuple(map(str, facts.get("warnings") or ())),
    }


def candidates(told: Any) -> tuple[Candidate, ...]:
    """The pictures from which the gateway took the best."""
    listed = told if isinstance(told, list) else []
    return tuple(_candidate(each) for each in listed if isinstance(each, dict) and isinstance(each.get("seed"), int))


def _candidate(told: Mapping[str, Any]) -> Candidate:
    failure = told.get("error")
    error = None
    if isinstance(failure, dict):
        message, hint = str(failure.get("message") or "It failed."), str(failure.get("hint") or "")
        error = RylaError.registered(str(failure.get("code")), "node_failed", message, hint, {})
    return Candidate(told["seed"], number(told.get("similarity")), error, bool(told.get("chosen")))


def number(value: Any) -> float | None:
    """A number of an answer; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


async def fetch(api: GatewayApi, facts: Facts) -> tuple[Picture, ...]:
    """Download the pictures of a job that succeeded. A gateway that is down is given time to come back.

    Raises:
        RylaError: ``missing_output``, ``bad_output``, ``transfer_failed``, ``gateway_gone``, ``result_gone``.
    """
    listed = facts.get("pictures")
    kinds = [str(each.get("type")) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    if not kinds:
        message = f"{api.server} names no picture of the job {facts['id']}."
        raise RylaError("missing_output", message, server=api.server, job_id=facts["id"])
    return tuple([await _picture(api, str(facts["id"]), index, kind) for index, kind in enumerate(kinds)])


async def _picture(api: GatewayApi, job_id: str, index: int, kind: str) -> Picture:
    where = f"/jobs/{job_id}/result{f'?number={index}' if index else ''}"
    facts = {"server": api.server, "job_id": job_id}
    patience = Patience(api.server, Outage(api.limits), job_id)
    for attempt in count(1):
        try:
            data = await api.picture(job_id, index, kind)
            break
        except CallFailed as failure:
            if attempt >= _TRIES and not failure.absent:
                message = f"The picture of the job {job_id} could not be downloaded from {api.server}: {failure}."
                raise RylaError("transfer_failed", message, **facts) from failure
            await patience.after(failure)
    found = identify(data)
    if found is None:
        raise RylaError("bad_output", f"{where} of {api.server} is no picture.", **facts)
    if not complete(data, found):
        raise RylaError("bad_output", f"{where} of {api.server} is cut off after {len(data)} bytes.", **facts)
    return _named(data, found, where)


def _named(data: bytes, kind: Format, where: str) -> Picture:
    folder, _, name = where.strip("/").rpartition("/")
    return Picture(data, kind, NODE, name, folder, "output")
