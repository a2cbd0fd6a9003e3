"""The tables and contact sheets of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ryla_nodes.batch.contact_sheet import Thumbnail, make

from . import cast
from .crew import Order
from .figures import LEAST, MOST, Lines
from .rows import ABLATIONS, DRAWN, FLUX, OTHER, OWN, PAIRS, STRENGTHS, Asked, strength_name

_SHOWN = 8
_COLUMNS = {DRAWN: 8, "sdxl": 8, FLUX: 6, PAIRS: 6, "ablation": 8}
"""So that a person, or two, fill a row."""
_KINDS = {DRAWN: (DRAWN,), "sdxl": (OWN, OTHER, *map(strength_name, STRENGTHS)), "ablation": (OWN, *ABLATIONS)}


def tables(content: Mapping[str, Any]) -> Iterable[str]:
    """The lines of the tables, in Markdown."""
    limit = content["threshold"]
    own = f"{100 * limit['own']:.1f} %"
    yield f"\nPictures of {content['size']} px in {content['steps']} steps. Accepted is what exceeds a cosine of"
    yield f"{limit['cosine']:.3f}, as 1 % of {limit['pairs']} drawn pairs of strangers do, and {own} of a person's."
    yield "\n| row | pictures | accepted | 95 % interval | mean cosine | no face | failed |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row, found in content["rows"].items():
        rates = {f"{row}: {name}": each for name, each in found.items() if isinstance(each, dict) and "cosine" in each}
        grown = {f"{row}: at strength {name}": each for name, each in found.get("growth", {}).items()}
        for name, each in (rates | grown).items():
            cosine = "" if each["cosine"] is None else f"{each['cosine']:.3f}"
            told = (name, each["total"], percent(each), interval(each), cosine, each["no_face"], each["failed"])
            yield f"| {' | '.join(map(str, told))} |"
    off = content["rows"].get("sdxl", {}).get("keypoints")
    if off:
        yield f"\nKeypoints off by {100 * off['mean']:.1f} % of the face's width, 95 % by {100 * off['95 %']:.1f} %."
    if "plain" in content["rows"].get(FLUX, {}):
        yield from _scenes(content["rows"][FLUX])


def _scenes(flux: Mapping[str, Any]) -> Iterable[str]:
    same = flux["same_outside"]
    yield f"\nOutside the mask (it covers {100 * flux['masked']:.0f} % of a picture) {same['right']} of {same['total']}"
    yield "scenes are as FLUX painted them, pixel for pixel."
    yield "\n| right in the scene | without the face stage | with it |\n| --- | --- | --- |"
    for part, share in flux["plain"].items():
        yield f"| {part.replace('_', ' ')} | {percent(share)} | {percent(flux['faced'][part])} |"


def percent(share: Mapping[str, Any]) -> str:
    """A rate as text."""
    return f"{100 * share['rate']:.1f} %"


def interval(share: Mapping[str, Any]) -> str:
    """Its interval in percent as text."""
    low, high = share["interval"]
    return f"{100 * low:.1f} to {100 * high:.1f}"


class Sheets:
    """Contact sheets of the first people of each row, as they came; red is what a goal wants otherwise."""

    def __init__(self, order: Order, lines: Lines, threshold: float) -> None:
        self._order, self._lines, self._threshold = order, lines, threshold
        self._set, self._inputs = order.set(), order.inputs
        self._people = range(min(_SHOWN, max(1, order.count // 4)))

    def write(self, rows: Sequence[str], folder: Path) -> None:
        """``people-ROW.jpg`` of each row in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows:
            shown = {FLUX: self._scenes, PAIRS: self._pairs}.get(row)
            thumbnails = list(shown() if shown else self._rows(_KINDS[row]))
            make(thumbnails, folder / f"people-{row}.jpg", columns=_COLUMNS[row])

    def _rows(self, kinds: Sequence[str]) -> Iterable[Thumbnail]:
        for number in self._people:
            yield self._reference(number)
            yield from (self._scored(Asked(kind, number)) for kind in kinds)

    def _scenes(self) -> Iterable[Thumbnail]:
        for number in cast.fitting(max(1, self._order.count // 2))[:_SHOWN]:
            asked = Asked(FLUX, number)
            plain = Thumbnail(self._set.picture(asked, "-plain"), "without the face stage")
            yield from (self._reference(number), plain, self._scored(asked))

    def _pairs(self) -> Iterable[Thumbnail]:
        for number in self._people:
            asked = Asked(PAIRS, number)
            left, right = (self._scored(asked, side) for side in ("left", "right"))
            told = f"{left.label}, {right.label}"
            both = Thumbnail(left.file, told, left.wrong or right.wrong)
            yield from (self._reference(2 * number), both, self._reference(2 * number + 1))

    def _reference(self, number: int) -> Thumbnail:
        return Thumbnail(cast.photo(number, self._inputs), f"person {number}")

    def _scored(self, asked: Asked, name: str = "similarity") -> Thumbnail:
        value = self._lines[asked.key].get(name)
        told = f"{asked.kind if name == 'similarity' else name} {'no face' if value is None else f'{value:.2f}'}"
        accepted = value is not None and value > self._threshold
        wrong = not accepted if {asked.kind, name} & set(LEAST) else accepted and asked.kind in MOST
        return Thumbnail(self._set.picture(asked), told, wrong)
