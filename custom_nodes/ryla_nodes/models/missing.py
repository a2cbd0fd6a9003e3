"""What is missing, told at once: all searches are made before the first failure is raised, and one command mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .. import commands
from ..errors import RylaError, RylaErrors

Find = Callable[[], Path]


def search(finds: Iterable[Find]) -> tuple[list[Path], list[RylaError]]:
    """What was found, in order, and a ``missing_model`` for each search that found nothing; others are raised."""
    found, missing = [], []
    for find in finds:
        try:
            found.append(find())
        except RylaError as error:
            if error.code != "missing_model":
                raise
            missing.append(error)
    return found, missing


def require(checks: Iterable[Callable[[], object]]) -> None:
    """Make every check, and raise what failed, each thing once: one ``RylaError``, or several as ``RylaErrors``."""
    failed: list[RylaError] = []
    for check in checks:
        try:
            check()
        except RylaError as error:
            failed.append(error)
    told = _each_once(failed)
    if len(told) > 1:
        raise RylaErrors(told)
    if told:
        raise told[0]


def together(errors: Sequence[RylaError]) -> RylaError:
    """One error of several: each thing said once, the code of the first, and the fewest commands that mend all."""
    told = _each_once(errors)
    first = told[0]
    if len(told) == 1:
        return first
    names = [name for error in told for name in commands.installs(error.hint)]
    others = dict.fromkeys(error.hint for error in told if not commands.installs(error.hint))
    hint = "; then: ".join([*others, *([commands.install(names)] if names else [])])
    every = [error.as_dict() for error in told]
    message = " ".join(error.message for error in told)
    return RylaError.registered(first.code, first.code, message, hint, {**first.details, "errors": every})


def _each_once(errors: Iterable[RylaError]) -> list[RylaError]:
    return list({(error.code, error.message): error for error in errors}.values())
