"""The gateway's log: lines for people, or JSON for machines, with the job that each is about."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_FACTS = ("job_id", "prompt_id", "workflow", "state", "code", "engine", "method", "path", "status", "seconds", "token")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts(record),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message, and the facts behind it."""

    def format(self, record: logging.LogRecord) -> str:
        shown = " ".join(f"{name}={value}" for name, value in facts(record).items())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():<7} {record.getMessage()}"
        traceback = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{line}{'  ' if shown else ''}{shown}{traceback}"


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """What a record was given beside its words."""
    return {name: getattr(record, name) for name in _FACTS if getattr(record, name, None) not in (None, "")}


def configure(*, as_json: bool, level: str) -> None:
    """Send the package's log, and the server's, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    for name in ("ryla_nodes", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
