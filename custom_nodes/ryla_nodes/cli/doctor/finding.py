"""One thing that the doctor found."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """``level`` is ok, warning (it works, or only some workflows need it) or problem; ``fix`` is the next command."""

    check: str
    level: str
    message: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """The public JSON form."""
        return {"check": self.check, "level": self.level, "message": self.message, "fix": self.fix}


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, OK, message)


def warning(check: str, message: str, fix: str) -> Finding:
    """Not what it could be."""
    return Finding(check, WARNING, message, fix)


def problem(check: str, message: str, fix: str) -> Finding:
    """It will not work."""
    return Finding(check, PROBLEM, message, fix)
