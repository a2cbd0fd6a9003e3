"""How the messages of this package are put together."""

from __future__ import annotations

from collections.abc import Iterable

from ..similar import similar


def nearest(word: str, candidates: Iterable[str], *, likeness: float = 0.55) -> str | None:
    """The candidate most like ``word``, None when none reaches ``likeness`` (see ``similar``)."""
    return next(iter(similar(word, candidates, likeness=likeness)), None)


def sentence(text: str, more: int = 0) -> str:
    """``text`` as a sentence that also says how many further faults there are."""
    end = "" if text.endswith(("?", ".")) else "."
    return f"{text}{end} ({more} more)" if more else f"{text}{end}"
