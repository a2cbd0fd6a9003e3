"""Every way in which this project can fail, in one table.

A failure is raised as ``RylaError(code, message, hint=...)``. The code decides the exit status of the CLI and the HTTP
status of the gateway; the message names the thing and where it was looked for; the hint is the next command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorCode:
    """One kind of failure.

    ``code`` is public and never renamed. ``exit_status`` is the CLI's (2 bad input, 3 something is missing, 4 the engine
    is at fault or absent, 5 the job failed, 6 a deadline passed, 7 local files, 130 cancelled).
    """

    code: str
    meaning: str
    hint: str
    exit_status: int
    http_status: int


_CODES = (
    # Bad input
    ErrorCode("missing_parameter", "A required parameter was not given.", "ryla workflows show NAME", 2, 422),
    ErrorCode("unknown_parameter", "The workflow has no such parameter.", "ryla workflows show NAME", 2, 422),
    ErrorCode(
        "invalid_parameter",
        "A parameter's value is of the wrong type, range or step.",
        "ryla workflows show NAME",
        2,
        422,
    ),
    ErrorCode("unknown_workflow", "No workflow has this name.", "ryla workflows list", 2, 404),
)

REGISTRY: dict[str, ErrorCode] = {entry.code: entry for entry in _CODES}


class RylaError(Exception):
    """A failure from the registry.

    Args:
        code: a key of ``REGISTRY``.
        message: one line that names the thing and where it was looked for.
        hint: the next command or step; the registry's own hint when empty.
        details: machine-readable facts for ``--json`` and for HTTP bodies.
    """

    def __init__(self, code: str, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.entry = REGISTRY[code]
        self.message = message
        self.hint = hint or self.entry.hint
        self.details = details

    @property
    def code(self) -> str:
        return self.entry.code

    def as_dict(self) -> dict[str, Any]:
        """The public JSON form: ``{code, message, hint, details}``."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}

    def __str__(self) -> str:
        return f"{self.message} Next: {self.hint}" if self.hint else self.message
