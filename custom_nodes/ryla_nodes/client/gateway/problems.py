"""A gateway's refusals as failures of the registry: those that are final, and those that may pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from ...errors import RylaError
from ..transport import CallFailed, decoded, is_problem

LOGIN = "Write the gateway as https://:TOKEN@HOST; RYLA_TOKEN is for one on this machine."

_BUSY = 429
_PASSING = (502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530)
_TOLD = ("type", "title", "status", "code", "detail", "hint")


class Passing(CallFailed):
    """A refusal that may be over soon.

    Attributes:
        error: what to report when it is not.
        after: how many seconds to wait, as the gateway says; None when it does not.
        busy: the gateway is well, and has no place for the job now.
    """

    def __init__(self, error: RylaError, after: float | None, *, busy: bool, sent: bool) -> None:
        super().__init__(error.message.rstrip("."), sent=sent, absent=not busy)
        self.error, self.after, self.busy = error, after, busy


def refusal(server: str, response: httpx.Response, way: str = "") -> Exception:
    """What to raise for an answer that is no success: a ``RylaError`` that is final, or ``Passing``.

    Args:
        way: the proxy that it came through, in words.
    """
    status = response.status_code
    error = _told(server, response) if is_problem(response) else _foreign(server, response, way)
    if status == _BUSY or status in _PASSING:
        # What the gateway itself refuses it does not do; a proxy may say so of what it passed on.
        sent = status != _BUSY and not is_problem(response)
        return Passing(error, _after(response), busy=status == _BUSY, sent=sent)
    return error


def ending(server: str, facts: Mapping[str, Any]) -> RylaError:
    """Why a job that a gateway tells of did not succeed."""
    told = facts.get("error")
    told = told if isinstance(told, dict) else {}
    message = str(told.get("message") or f"{server} does not say why the job failed.")
    more = {name: value for name, value in told.items() if name not in ("code", "message", "hint")}
    details = {**more, "server": server, "job_id": str(facts.get("id", ""))}
    return RylaError.registered(str(told.get("code")), "node_failed", message, str(told.get("hint", "")), details)


def _told(server: str, response: httpx.Response) -> RylaError:
    try:
        body = decoded(response)
    except CallFailed:
        body = None
    body = body if isinstance(body, dict) else {}
    code, hint = str(body.get("code")), str(body.get("hint", ""))
    message = str(body.get("detail") or f"HTTP {response.status_code} without a reason.")
    if code == "unauthorized":
        message, hint = f"{server} does not take the token, or got none.", LOGIN
    details = {name: value for name, value in body.items() if name not in _TOLD}
    return RylaError.registered(code, "engine_error", message, hint, {**details, "server": server})


def _foreign(server: str, response: httpx.Response, way: str) -> RylaError:
    """What a proxy, or a stranger, answered in the gateway's place."""
    status = response.status_code
    facts: dict[str, Any] = {"server": server, "status": status}
    if status in (401, 403, 407):
        message = f"{server} refuses us (HTTP {status}{way}): a proxy before it wants a login."
        return RylaError("engine_forbidden", message, **facts)
    if status == 413:
        message = f"{server} refuses a request of this size (413{way})."
        return RylaError("request_too_large", message, hint="Send a smaller picture.", **facts)
    if status == _BUSY:
        return RylaError("engine_busy", f"{server} takes no more requests now (429{way}).", **facts)
    if status in _PASSING:
        return RylaError("engine_unreachable", f"No gateway answers at {server}: HTTP {status}{way}.", **facts)
    target = response.headers.get("Location")
    elsewhere = f": it redirects to {target}." if target else "."
    return RylaError("not_a_gateway", f"What answers at {server}{way} is not a gateway{elsewhere}", **facts)


def _after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if re.fullmatch(r"\d{1,6}", text) else None
