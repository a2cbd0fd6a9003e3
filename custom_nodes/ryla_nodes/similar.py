"""The names that look most like a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def similar(word: str, names: Iterable[str], count: int = 1, likeness: float = 0.55) -> tuple[str, ...]:
    """At most ``count`` of ``names``, the most alike first; () when none reaches ``likeness`` (0 to 1).

    Case and ``-``/``_`` make no difference.
    """
    folded: dict[str, str] = {}
    for name in sorted(names):
        folded.setdefault(_fold(name), name)
    return tuple(folded[match] for match in get_close_matches(_fold(word), folded, n=count, cutoff=likeness))


def nearest(word: str, names: Iterable[str], *, likeness: float = 0.55) -> str | None:
    """The one of ``names`` that is most like ``word``; None when none reaches ``likeness``."""
    return next(iter(similar(word, names, likeness=likeness)), None)


def _fold(word: str) -> str:
    return word.casefold().replace("-", "_")
