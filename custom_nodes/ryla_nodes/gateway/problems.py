"""Every failure as ``application/problem+json`` (RFC 9457), without a path or an address of this machine in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ..errors import REGISTRY, RylaError

MEDIA_TYPE = "application/problem+json"

_URL = re.compile(r"\b(?:https?|wss?)://[^\s'\",;()]*[^\s'\",;().:]")
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\blocalhost:\d+\b")
_POSIX = re.compile(r"(?<![\w.:/])(?:~|(?=/))(?:/[^\s/'\",:;()]+)*/([^\s/'\",:;()]+)")
_WINDOWS = re.compile(r"\b[A-Za-z]:\\(?:[^\\\s'\",;()]+\\)*([^\\\s'\",;()]*)")
_AT_ENGINE = re.compile(r" (?:at|on|from|to) the engine(?: at the engine)?\b")
_ADDRESSES = (
    (re.compile(r"ryla workflows show ([\w-]+)"), r"GET /workflows/\1"),
    (re.compile(r"ryla workflows list"), "GET /workflows"),
    (re.compile(r"ryla loras list"), "GET /loras"),
)
_SHOWN = ("prompt_id", "seed", "nearest", "min", "max", "step", "choices", "node_id", "node_class", "seconds")


def redact(text: str) -> str:
    """``text`` without addresses of engines and without folders: of a path its last part stays."""
    text = _ADDRESS.sub("the engine", _URL.sub("the engine", text))
    text = _WINDOWS.sub(r"\1", _POSIX.sub(r"\1", text))
    text = _AT_ENGINE.sub("", text) if text.startswith("No ") else text
    return text[:1].upper() + text[1:] if text.startswith("the engine") else text


def described(error: RylaError) -> dict[str, Any]:
    """A failure as it is stored and sent: code, message, hint and the facts that help the client."""
    facts = {name: error.details[name] for name in _SHOWN if error.details.get(name) is not None}
    problems = error.details.get("problems")
    if isinstance(problems, list):
        facts["problems"] = [_problem(each) for each in problems if isinstance(each, Mapping)]
    return {"code": error.code, "message": redact(error.message), "hint": _hint(error.hint), **facts}


def _hint(hint: str) -> str:
    """A hint for who has HTTP and no terminal on this machine."""
    for command, address in _ADDRESSES:
        hint = command.sub(address, hint)
    # What names an address of the gateway itself is no path of this machine.
    return hint if "GET /" in hint else redact(hint)


def _problem(each: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: each[name] for name in ("parameter", "code", "title", "class_type", "input") if each.get(name)}
    facts = each.get("facts")
    shown = {name: facts[name] for name in _SHOWN if name in facts} if isinstance(facts, Mapping) else {}
    return {**kept, "message": redact(str(each.get("message", ""))), **shown}


def problem(told: Mapping[str, Any], *, headers: Mapping[str, str] | None = None, **facts: Any) -> Response:
    """The answer for a failure that ``described`` gave; ``facts`` such as ``job_id`` are added when not None."""
    entry = REGISTRY[str(told["code"])]
    body = {
        "type": f"urn:ryla:error:{entry.code}",
        "title": entry.meaning,
        "status": entry.http_status,
        "code": entry.code,
        "detail": told["message"],
        "hint": told["hint"],
        **{name: value for name, value in told.items() if name not in ("code", "message", "hint")},
        **{name: value for name, value in facts.items() if value is not None},
    }
    return Response(json.dumps(body).encode(), entry.http_status, dict(headers or {}), MEDIA_TYPE)
