"""How the messages of this package are put together."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, candidates: Iterable[str], *, likeness: float = 0.55) -> str | None:
    """The candidate most like ``word`` (case and ``-``/``_`` apart), None when none reaches ``likeness`` (0 to 1)."""
    folded = {_fold(candidate): candidate for candidate in candidates}
    matches = get_close_matches(_fold(word), folded, n=1, cutoff=likeness)
    return folded[matches[0]] if matches else None


def sentence(text: str, more: int = 0) -> str:
    """``text`` as a sentence that also says how many further faults there are."""
    end = "" if text.endswith(("?", ".")) else "."
    return f"{text}{end} ({more} more)" if more else f"{text}{end}"


def _fold(word: str) -> str:
    return word.casefold().replace("-", "_")
