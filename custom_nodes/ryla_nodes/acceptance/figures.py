"""From the journal's lines to figures, each beside what was promised. Nothing that was not measured passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image, ImageChops, ImageStat

from ..identity.proportion import THRESHOLD, wilson_interval
from ..pictures import rgb
from ..workflows.workflow import Workflow
from .options import AT_ONCE, needs_lora
from .run import blocked

PASS, FAIL, OPEN, TOLD = "pass", "fail", "not measured", "no target"

LEAST_SAMPLES = 10
SUCCESS = 0.95
PICTURE_SECONDS = 30.0
COLD_SECONDS = 60.0
FACES = 0.85
SAME_DB = 45.0
LORA_CHANGE = 2.0

Line = Mapping[str, Any]
_NOT_OURS = "the engine is not started by this run, so it cannot be restarted"


@dataclass(frozen=True)
class Figure:
    """One figure beside its target.

    Attributes:
        state: ``pass``, ``fail``, ``not measured``, or ``no target`` for what only helps to read the others.
        missing: it could not be measured for want of something that can be installed or given.
        why: what keeps it from being measured, and what to do.
    """

    name: str
    target: str
    measured: str
    state: str
    why: str = ""
    missing: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


class Figures:
    """The figures of one workflow.

    Args:
        lines: the journal's, by key.
        people: what is known of the references: ``genuine`` (None when it is not known) and ``why`` not.
    """

    def __init__(
        self, workflow: Workflow, lines: Mapping[str, Line], samples: int, people: Mapping[str, Any], out: Path
    ) -> None:
        self._workflow, self._people, self._out = workflow, people, out
        keys = (f"sample/{workflow.name}/{number}" for number in range(1, samples + 1))
        self.samples = [lines[key] for key in keys if key in lines]
        self._at_once = lines.get(f"at_once/{workflow.name}")
        self._off = lines.get(f"lora_off/{workflow.name}")
        self._again = lines.get(f"restart/{workflow.name}")
        self._blocked = blocked(self.samples[0]) if self.samples else None

    def all(self) -> list[Figure]:
        """Every figure; all ``not measured`` where something is missing without which there is no picture."""
        made = [self._count(), self._success(), self._seconds(), self._cold(), self._five(), self._same(),
                self._downloads()]  # fmt: skip
        made += self._faces() if self._workflow.parameter("best_of") else []
        made += self._loras() if needs_lora(self._workflow) else []
        if self._blocked is None:
            return made
        why = f"{self._blocked.message} {self._blocked.hint}".strip()
        short = f"{self._blocked.code}, as above"
        return [
            Figure(each.name, each.target, "-", OPEN, short if number else why, missing=True)
            for number, each in enumerate(made)
        ]

    # --- pictures -----------------------------------------------------------------------------------------------------

    def _count(self) -> Figure:
        count = len(self.samples)
        return _judged("samples", f">= {LEAST_SAMPLES}", str(count), count >= LEAST_SAMPLES, count=count)

    def _success(self) -> Figure:
        total, made = len(self.samples), sum(bool(line["ok"]) for line in self.samples)
        if not total:
            return Figure("success rate", f"> {SUCCESS:.0%}", "-", OPEN, "no sample was run")
        low, high = wilson_interval(made, total)
        shown = f"{made} of {total} = {made / total:.1%} (95 %: {low:.1%} to {high:.1%})"
        good = made / total > SUCCESS
        return _judged("success rate", f"> {SUCCESS:.0%}", shown, good, made=made, total=total, interval=[low, high])

    def _seconds(self) -> Figure:
        name, target = "seconds a picture", f"mean < {PICTURE_SECONDS:.0f} s"
        good = [line for line in self.samples if line["ok"] and not line["cached"]]
        warm = [line["seconds"] for line in good if not line["first"]] or [line["seconds"] for line in good]
        if not warm:
            return Figure(name, target, "-", OPEN, "no picture was made (those from an engine's cache do not count)")
        mean, p50, p95 = fmean(warm), percentile(warm, 50), percentile(warm, 95)
        shown = f"mean {mean:.1f} s, p50 {p50:.1f} s, p95 {p95:.1f} s"
        facts = {"mean": mean, "p50": p50, "p95": p95, "count": len(warm)}
        return _judged(name, target, shown, mean < PICTURE_SECONDS, **facts)

    def _five(self) -> Figure:
        name, target = f"{AT_ONCE} at once", "all succeed"
        line = self._at_once
        if line is None:
            return Figure(name, target, "-", OPEN, "it was not reached")
        made = sum(bool(job["ok"]) for job in line.get("jobs", ()))
        shown = f"{made} of {AT_ONCE} in {line.get('wall', line.get('seconds', 0)):.1f} s"
        return _judged(name, target, shown, made == AT_ONCE, made=made, wall=line.get("wall"))

    def _of(self, line: Line) -> Line:
        """The sample with which a further picture is compared."""
        number = int(line.get("sample", 1))
        return self.samples[number - 1] if number <= len(self.samples) else {}

    # --- a restart ----------------------------------------------------------------------------------------------------

    def _cold(self) -> Figure:
        name, target = "cold start to the first picture", f"< {COLD_SECONDS:.0f} s"
        line = self._again
        if line is None or "cold" not in line:
            return Figure(name, target, "-", OPEN if line is None else FAIL, _NOT_OURS if line is None else _why(line))
        shown = f"{line['cold']:.1f} s (ready after {line['ready']:.1f} s)"
        good = bool(line["ok"]) and line["cold"] < COLD_SECONDS
        return _judged(name, target, shown, good, cold=line["cold"], ready=line["ready"])

    def _same(self) -> Figure:
        name, target = "the same picture after a restart", f">= {SAME_DB:.0f} dB"
        line = self._again
        if line is None:
            return Figure(name, target, "-", OPEN, _NOT_OURS)
        first = self._of(line)
        if not line["ok"] or not first.get("ok"):
            return Figure(name, target, "no picture", FAIL, _why(line if not line["ok"] else first))
        decibel = psnr(self._out / first["file"], self._out / line["file"])
        shown = "identical" if math.isinf(decibel) else f"{decibel:.1f} dB"
        return _judged(name, target, shown, decibel >= SAME_DB, psnr=None if math.isinf(decibel) else decibel)

    def _downloads(self) -> Figure:
        name, target = "files downloaded again after a restart", "0"
        line = self._again
        if line is None or "downloaded" not in line:
            return Figure(name, target, "-", OPEN, _NOT_OURS if line is None else _why(line))
        files = list(line["downloaded"])
        good = not files and bool(line["ok"])
        shown = str(len(files)) + (f" ({', '.join(Path(file).name for file in files[:3])})" if files else "")
        return _judged(name, target, f"{shown}, with downloads switched off", good, files=files)

    # --- faces --------------------------------------------------------------------------------------------------------

    def _faces(self) -> list[Figure]:
        made = [line for line in self.samples if line["ok"]]
        scores = [line["face_similarity"] for line in made if line["face_similarity"] is not None]
        name, target = f"face pass rate at {THRESHOLD:.2f}", "85 to 90 %"
        if not scores:
            why = "the engine reported no face score: its log says why; ryla doctor says what to install"
            return [Figure(name, target, "-", OPEN, why, missing=True)]
        passed, total = sum(score >= THRESHOLD for score in scores), len(scores)
        low, high = wilson_interval(passed, total)
        shown = f"{passed} of {total} = {passed / total:.1%} (95 %: {low:.1%} to {high:.1%})"
        rate = _judged(name, target, shown, passed / total >= FACES, passed=passed, total=total, interval=[low, high])
        return [rate, *self._cosines(scores)]

    def _cosines(self, scores: Sequence[float]) -> list[Figure]:
        """What has no target of its own: it tells how the pass rate is to be read."""
        mean, genuine = fmean(scores), self._people.get("genuine")
        first = Figure("mean cosine", "-", f"{mean:.3f}", TOLD, facts={"mean": mean})
        name = "relative to photos of one person"
        if genuine is None:
            why = str(self._people.get("why") or "two or more photos of a person are needed")
            return [first, Figure(name, "-", "-", OPEN, why)]
        facts = {"relative": mean / genuine, "genuine": genuine}
        return [first, Figure(name, "-", f"{mean / genuine:.1%} of {genuine:.3f}", TOLD, facts=facts)]

    # --- LoRAs --------------------------------------------------------------------------------------------------------

    def _loras(self) -> list[Figure]:
        loaded = sorted({str(line["lora_id"]) for line in self.samples if line["ok"]})
        failed = sorted({str(line.get("lora_id")) for line in self.samples if _lora_failed(line)})
        shown = f"{len(loaded)} of {len(set(loaded) | set(failed))} LoRAs"
        load = _judged("LoRAs that load", "all", shown, bool(loaded) and not failed, loaded=loaded, failed=failed)
        return [load, self._trigger(), self._change()]

    def _trigger(self) -> Figure:
        name, target = "trigger word in the prompt", "always"
        made = [line for line in self.samples if line["ok"]]
        told = [line for line in made if "prompt_used" in line and _trigger(line)]
        if not told:
            silent = bool(made) and not any("prompt_used" in line for line in made)
            why = "a gateway does not tell the prompt" if silent else "the LoRAs have no trigger word"
            return Figure(name, target, "-", OPEN, why)
        good = sum(_trigger(line).lower() in line["prompt_used"].lower() for line in told)
        return _judged(name, target, f"{good} of {len(told)}", good == len(told), with_it=good, total=len(told))

    def _change(self) -> Figure:
        name, target = "the LoRA changes the picture", f"> {LORA_CHANGE:g} of 255"
        off = self._off or {}
        first = self._of(off)
        if not (first.get("ok") and off.get("ok")):
            return Figure(name, target, "-", OPEN, _why(off or first))
        mean = difference(self._out / first["file"], self._out / off["file"])
        return _judged(name, target, f"{mean:.1f} of 255 on average", mean > LORA_CHANGE, difference=mean)


def _judged(name: str, target: str, measured: str, good: bool, **facts: Any) -> Figure:
    return Figure(name, target, measured, PASS if good else FAIL, facts=facts)


def _why(line: Line) -> str:
    error = line.get("error")
    return str(error["message"]) if error else "it was not reached"


def _lora_failed(line: Line) -> bool:
    return not line["ok"] and "lora" in str((line.get("error") or {}).get("code", ""))


def _trigger(line: Line) -> str:
    """The trigger word that the loader reported; "" when the LoRA has none."""
    for told in str(line.get("lora_report", "")).split("\n"):
        if told.startswith("trigger word '"):
            return told.removeprefix("trigger word '").partition("' (from ")[0]
    return ""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of 100 of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _apart(one: Path, other: Path) -> ImageStat.Stat | None:
    """Statistics of the absolute difference of two pictures; None when their sizes differ."""
    with Image.open(one) as first, Image.open(other) as second:
        a, b = rgb(first), rgb(second)
    return ImageStat.Stat(ImageChops.difference(a, b)) if a.size == b.size else None


def difference(one: Path, other: Path) -> float:
    """Mean absolute difference of two pictures of one size, 0..255; 255 when their sizes differ."""
    apart = _apart(one, other)
    return 255.0 if apart is None else fmean(apart.mean)


def psnr(one: Path, other: Path) -> float:
    """Peak signal-to-noise ratio of two pictures in dB; infinite for equal ones, 0 when their sizes differ."""
    apart = _apart(one, other)
    if apart is None:
        return 0.0
    square = fmean(total / count for total, count in zip(apart.sum2, apart.count, strict=True))
    return math.inf if square == 0 else 10 * math.log10(255**2 / square)
