"""Several LoRAs in one id: ``anna*0.8+style`` is ``anna`` at 0.8 of the strength, then ``style`` at the whole of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import RylaError

MOST = 8
_FACTOR = re.compile(r"-?(\d+(\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class Weighted:
    """One LoRA of several: its id, and by what the strength is multiplied for it."""

    id: str
    factor: float = 1.0


def parse(text: str, exists: Callable[[str], bool]) -> tuple[Weighted, ...]:
    """The LoRAs that ``text`` names, in the order in which they are applied; ``exists``: whether an id has a file.

    Text that is an id of its own stays whole, and so does text without ``+`` and ``*``.

    Raises:
        RylaError: ``invalid_lora_id`` that names the part which is no id, or no number.
    """
    if not {"+", "*"} & set(text) or exists(text):
        return (Weighted(text),)
    parts = text.split("+")
    if len(parts) > MOST:
        raise _invalid(text, f"it names {len(parts)} LoRAs; at most {MOST} are applied at once")
    return tuple(_part(text, number, part) for number, part in enumerate(parts, 1))


def _part(text: str, number: int, part: str) -> Weighted:
    name, star, factor = part.partition("*")
    if not name.strip(" "):
        raise _invalid(text, f"its part {number} is empty")
    if star and not _FACTOR.fullmatch(factor.strip(" ")):
        raise _invalid(text, f"its part {part.strip(' ')!r} has no number after '*'")
    return Weighted(name.strip(" "), float(factor) if star else 1.0)


def _invalid(text: str, why: str) -> RylaError:
    hint = "Several LoRAs are written so: anna*0.8+style."
    return RylaError("invalid_lora_id", f"{text!r} does not name LoRAs: {why}.", hint=hint, lora_id=text)
