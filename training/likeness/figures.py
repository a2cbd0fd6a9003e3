"""From what is noted of the pictures to rates, and to which goals are missed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation import Share
from .rows import ABLATIONS, DEFAULT, DRAWN, FLUX, OTHER, OWN, PAIRS, STRENGTHS, Asked, Facts, asked_for, strength_name

ROWS = (DRAWN, "sdxl", FLUX, PAIRS, "ablation")
OUTSIDE_FACE = ("hair", "hat", "background")
"""What the prompt of a scene says that the face stage must leave alone."""
KINDS = (OWN, OTHER, *map(strength_name, STRENGTHS), *ABLATIONS)
KEYPOINTS, POINTS = 0.05, 0.02
LEAST = {DRAWN: 0.98, OWN: 0.90, FLUX: 0.85, "left": 0.80, "right": 0.80}
MOST = {OTHER: 0.05, strength_name(0): 0.10}

Lines = Mapping[str, Facts]
Goals = dict[str, bool]


class Figures:
    """The figures of ``rows`` of an evaluation of ``count`` people, whose cosine has to exceed ``threshold``."""

    def __init__(self, rows: Sequence[str], count: int, lines: Lines, threshold: float) -> None:
        self._lines, self._threshold = lines, threshold
        self._by_kind: dict[str, list[Facts]] = {}
        asked = dict.fromkeys(each for row in rows for each in asked_for(row, count))
        for each in asked:
            self._by_kind.setdefault(each.kind, []).append(lines[each.key])
        self.rows, self.content = rows, {row: self._of(row) for row in rows}

    def _of(self, row: str) -> dict[str, Any]:
        of = {FLUX: self._flux, PAIRS: self._pairs, "ablation": self._ablation, "sdxl": self._sdxl}
        return of[row]() if row in of else {DRAWN: self.rates(self._by_kind[DRAWN])}

    def rates(self, lines: Sequence[Facts], name: str = "similarity") -> dict[str, Any]:
        """The share that is accepted; the mean cosine of those with a face; how many have none, or failed."""
        found = [line[name] for line in lines if line.get(name) is not None]
        accepted = Share(sum(each > self._threshold for each in found), len(lines)).as_dict()
        failed = sum("error" in line for line in lines)
        cosine = float(np.mean(found)) if found else None
        return {**accepted, "cosine": cosine, "no_face": len(lines) - len(found) - failed, "failed": failed}

    def _sdxl(self) -> dict[str, Any]:
        kinds = {kind: self._by_kind[kind] for kind in KINDS if kind in self._by_kind and kind not in ABLATIONS}
        common = min(map(len, kinds.values()))
        grown = {s: OWN if s == DEFAULT else strength_name(s) for s in sorted((*STRENGTHS, DEFAULT))}
        off = [line["off"] for line in kinds[OWN] if line.get("off") is not None]
        return {
            **{kind: self.rates(lines) for kind, lines in kinds.items()},
            "growth": {f"{s:g}": self.rates(kinds[kind][:common]) for s, kind in grown.items()},
            "keypoints": {"mean": float(np.mean(off)), "95 %": float(np.quantile(off, 0.95))} if off else None,
        }

    def _flux(self) -> dict[str, Any]:
        lines = self._by_kind[FLUX]
        made = [line for line in lines if "error" not in line]
        parts = made[0]["plain"] if made else ()
        right = {
            stage: {part: Share(sum(line[stage][part] for line in made), len(lines)).as_dict() for part in parts}
            for stage in ("plain", "faced")
            if made
        }
        outside = Share(sum(line["changed_outside"] == 0 for line in made), len(lines)).as_dict()
        masked = float(np.mean([line["masked"] for line in made])) if made else None
        return {FLUX: self.rates(lines), **right, "same_outside": outside, "masked": masked}

    def _pairs(self) -> dict[str, Any]:
        lines = self._by_kind[PAIRS]
        return {name: self.rates(lines, name) for name in ("left", "right", "left_as_right", "right_as_left")}

    def _ablation(self) -> dict[str, Any]:
        part = len(self._by_kind[ABLATIONS[0]])
        return {kind: self.rates(self._by_kind[kind][:part]) for kind in (OWN, *ABLATIONS)}

    def goals(self) -> Goals:
        """Each goal of the rows, and whether it is reached."""
        reached: Goals = {}
        for row in self.rows:
            found = self.content[row]
            for kind, rates in found.items():
                if kind in LEAST and row != "ablation":
                    reached[f"{row}: {kind} accepted in at least {LEAST[kind]:.0%}"] = rates["rate"] >= LEAST[kind]
                if kind in MOST:
                    reached[f"{row}: {kind} accepted in at most {MOST[kind]:.0%}"] = rates["rate"] <= MOST[kind]
            reached |= {"sdxl": _sdxl_goals, FLUX: _flux_goals, "ablation": _falls}.get(row, _none)(found)
        return reached


def _none(_: Mapping[str, Any]) -> Goals:
    return {}


def _sdxl_goals(found: Mapping[str, Any]) -> Goals:
    off = found["keypoints"]
    return {
        "sdxl: the rate grows with strength": grows(found["growth"].values()),
        f"sdxl: keypoints off by at most {KEYPOINTS:.0%} of the face": off is not None and off["mean"] <= KEYPOINTS,
    }


def grows(rates: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the last rate is surely above the first, and none surely below one before it (by their intervals)."""
    bounds = [rate["interval"] for rate in rates]
    lows = [low for low, _ in bounds]
    falls = any(high < max(lows[:place]) for place, (_, high) in enumerate(bounds) if place)
    return not falls and bounds[-1][0] > bounds[0][1]


def _flux_goals(found: Mapping[str, Any]) -> Goals:
    goals = {"flux: nothing outside the mask is changed": found["same_outside"]["rate"] == 1}
    for part in OUTSIDE_FACE:
        kept = "faced" in found and found["faced"][part]["rate"] >= found["plain"][part]["rate"] - POINTS
        goals[f"flux: {part} right as often as without the face stage, within {POINTS:.0%}"] = kept
    return goals


def _falls(found: Mapping[str, Any]) -> Goals:
    """One is felt where its whole interval lies below the rate of the whole adapter; a training decides which."""
    whole = found[OWN]
    felt = [
        each["right"] < whole["right"] and each["interval"][1] < whole["rate"]
        for each in (found[kind] for kind in ABLATIONS)
    ]
    return {f"ablation: the rate falls ({' or '.join(ABLATIONS)})": any(felt)}


def missing(rows: Sequence[str], count: int, done: Callable[[str], bool]) -> list[Asked]:
    """What is still to be painted, in the order of the rows."""
    asked = dict.fromkeys(each for row in rows for each in asked_for(row, count))
    return [each for each in asked if not done(each.key)]
