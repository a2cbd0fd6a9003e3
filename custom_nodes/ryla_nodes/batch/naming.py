"""The names of pictures: from a template such as ``out/{index:04}-{seed}.jpg`` to paths that do not collide. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import RylaError

_LONGEST = 80
_UNSAFE = re.compile(r"[^\w.,+=@-]+")
OWN_FIELDS = ("index", "seed", "workflow", "row")


def fields(template: str) -> tuple[str, ...]:
    """The names in braces.

    Raises:
        RylaError: ``invalid_output_path`` for a template that cannot be read.
    """
    try:
        return tuple(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    except ValueError as error:
        raise RylaError("invalid_output_path", f'The name "{template}" cannot be read: {error}.') from error


def check(template: str, parameters: Iterable[str]) -> None:
    """Refuse a template that names what a job does not have.

    Raises:
        RylaError: ``invalid_output_path``.
    """
    known = [*OWN_FIELDS, *(name for name in parameters if name not in OWN_FIELDS)]
    for name in fields(template):
        if name not in known:
            message = f'The name "{template}" has {{{name}}}, which is none of {", ".join(known)}.'
            raise RylaError("invalid_output_path", message, field=name, known=known)


def fill(template: str, values: Mapping[str, object]) -> str:
    """The template with each field replaced; texts are made safe for every file system and kept short.

    Raises:
        RylaError: ``invalid_output_path`` for a format that does not fit its value.
    """
    safe = {name: _safe(value) if isinstance(value, str) else value for name, value in values.items()}
    try:
        return template.format_map(safe)
    except (ValueError, KeyError, AttributeError, IndexError) as error:
        raise RylaError("invalid_output_path", f'The name "{template}" cannot be filled in: {error}.') from error


def distinct(paths: Iterable[Path], taken: Iterable[Path] = ()) -> list[Path]:
    """The same paths, ``-2``, ``-3`` ... added where one was used before or differs in case only."""
    used = {_key(path) for path in taken}
    result = []
    for path in paths:
        candidate, number = path, 1
        while _key(candidate) in used:
            number += 1
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        used.add(_key(candidate))
        result.append(candidate)
    return result


def _key(path: Path) -> str:
    return str(path).casefold()


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text)[:_LONGEST].strip("._") or "_"
