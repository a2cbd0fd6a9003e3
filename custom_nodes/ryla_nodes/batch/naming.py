"""The names of pictures: from a template such as ``out/{index:04}-{seed}.jpg`` to paths that do not collide."""

from __future__ import annotations

import os
import re
import string
import threading
from collections.abc import Collection, Iterable, Mapping
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
    claims = Claims(taken)
    return [claims.plan(path) for path in paths]


class Claims:
    """Which picture may have which path: each of a batch another one, and none a file that is not of its row.

    Paths that differ in case only count as one. It may be used by several threads.

    Args:
        taken: what no picture may become, such as the journal and the pictures that are made.
        overwrite: let pictures replace files that are there.
    """

    def __init__(self, taken: Iterable[Path] = (), *, overwrite: bool = False) -> None:
        self.overwrite = overwrite
        self._used = {_key(path) for path in taken}
        self._planned: set[str] = set()
        self._lock = threading.Lock()

    def keep(self, paths: Iterable[Path]) -> None:
        """No picture may become one of these, either."""
        self._used.update(map(_key, paths))

    def plan(self, path: Path) -> Path:
        """``path``, or the next numbered one that no other job of the batch has."""
        candidate, number = path, 1
        while _key(candidate) in self._used:
            number += 1
            candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        self._used.add(_key(candidate))
        self._planned.add(_key(candidate))
        return candidate

    def take(self, path: Path, planned: Path) -> bool:
        """Claim ``path`` for a picture of the job that was planned for ``planned``."""
        key, mine = _key(path), _key(planned)
        with self._lock:
            # A path that was planned without a suffix gets that of its picture.
            if key != mine and (key in self._used or _key(path.with_suffix("")) in self._planned - {mine}):
                return False
            self._used.add(key)
            return True


class Claim:
    """The names for the pictures of one job: see ``client.results.Names``.

    Args:
        planned: the job's path in ``claims``.
        own: files that earlier runs of this very job made.
    """

    def __init__(self, claims: Claims, planned: Path, own: Collection[Path]) -> None:
        self._claims, self._planned = claims, planned
        self._own = {_key(path) for path in own}

    def take(self, path: Path) -> bool:
        return self._claims.take(path, self._planned)

    def may_replace(self, path: Path) -> bool:
        return self._claims.overwrite or _key(path) in self._own


def _key(path: Path) -> str:
    return os.path.abspath(path).casefold()  # noqa: PTH100  # resolve() would follow links


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text)[:_LONGEST].strip("._") or "_"
