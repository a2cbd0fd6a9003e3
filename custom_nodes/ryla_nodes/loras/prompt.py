"""The trigger word in the prompt: once, in front, unless it is already there."""

from __future__ import annotations

import re
import unicodedata


def add_trigger(text: str, trigger: str) -> str:
    """``text`` with ``trigger`` in front, comma-separated; unchanged when it already has it.

    A trigger may hold several comma-separated phrases; each that is missing is added, in order. A phrase is there when
    its words occur as whole words, whatever the case, the spacing and the punctuation around them:
    ``(Ohwx  Woman:1.2)`` has ``ohwx woman``; ``ohwxy`` and ``sks_dog`` have neither ``ohwx`` nor ``sks``.
    """
    missing: list[str] = []
    for phrase in (" ".join(part.split()) for part in trigger.split(",")):
        if phrase and not has_phrase(text, phrase) and not has_phrase(", ".join(missing), phrase):
            missing.append(phrase)
    if not missing:
        return text
    rest = text.lstrip(" \t\r\n,")
    return ", ".join([*missing, rest] if rest else missing)


def has_phrase(text: str, phrase: str) -> bool:
    """Whether the words of ``phrase`` stand in ``text`` as whole words, case and spacing apart."""
    words = _fold(phrase).split()
    if not words:
        return True
    pattern = _edge(words[0][0], "<!") + r"\s+".join(map(re.escape, words)) + _edge(words[-1][-1], "!")
    return re.search(pattern, _fold(text)) is not None


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _edge(char: str, look: str) -> str:
    """No letter may touch an outer letter of the phrase; scripts written without spaces have no word edges."""
    spaced = re.match(r"\w", char) and unicodedata.east_asian_width(char) not in "WF"
    return rf"(?{look}\w)" if spaced else ""
