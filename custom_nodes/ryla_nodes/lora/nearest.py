"""The ids that look most like a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(wanted: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """At most ``count`` of ``known``, the most alike first; the first ones by name when none is alike."""
    folded: dict[str, str] = {}
    for each in sorted(known):
        folded.setdefault(each.casefold(), each)
    close = get_close_matches(wanted.casefold(), folded, n=count, cutoff=0.5)
    others = (each for each in folded if each not in close)
    filled = [*close, *(each for each, _ in zip(others, range(count - len(close)), strict=False))]
    return tuple(folded[each] for each in filled)
