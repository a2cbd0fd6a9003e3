"""Does the embedded engine paint the person of the photo? Held-out drawn people, through the InstantID workflows.

    python benchmarks/people.py [--count 200] [--size 256] [--steps 20] [--row sdxl] [--out out/people]
                                [--models OUT/models --insightface OUT/faces/insightface] [--pictures docs/pictures]

Rows: `drawn` (another drawing in place of a painting: the best that can be reached), `sdxl` (`count` people with their
own photo, another's, and at other strengths), `flux` (half as many scenes), `pairs` (a quarter as many pictures of two
people), `ablation` (a quarter as many with a part of the adapter missing or misplaced). Interrupt it at will: the same
command goes on. The second recogniser says who is in a picture, above a cosine that is set before anything is painted.
Prints tables, writes `people.json` and contact sheets, and ends with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "custom_nodes")]

import torch  # noqa: E402
from paint import interval, percent  # noqa: E402
from ryla_nodes.acceptance.journal import Journal  # noqa: E402
from ryla_nodes.batch.contact_sheet import Thumbnail, make  # noqa: E402
from ryla_nodes.engines.embedded.engine import EmbeddedEngine  # noqa: E402
from ryla_nodes.files import sha256  # noqa: E402
from ryla_nodes.models import shipped  # noqa: E402
from ryla_nodes.models.folders import ModelFolders  # noqa: E402
from ryla_nodes.models.identity_files import IdentityFiles, find_pack, find_scorer  # noqa: E402

from training.likeness import ablation, cast  # noqa: E402
from training.likeness.engine import SharedEngine, Studio  # noqa: E402
from training.likeness.figures import ROWS, Figures, missing  # noqa: E402
from training.likeness.rows import ABLATIONS, DRAWN, FLUX, OTHER, OWN, PAIRS, STRENGTHS, Asked, Set, strength_name  # noqa: E402
from training.likeness.scores import Eyes, Threshold  # noqa: E402
from training.likeness.together import Together  # noqa: E402
from training.sdxl.export import files as trained  # noqa: E402

REPORT_EVERY = 20.0
LEAST_STRANGERS = 24
GPU_BATCH = 48
SMALLEST = 256
SHOWN = 8


def judged(options: argparse.Namespace) -> IdentityFiles:
    """The files that are judged: those of a training, or the engine's own."""
    own = EmbeddedEngine(options.out / "home", ModelFolders({}))
    found = own.default_identity() if options.models is None else trained(options.models)
    return found if options.insightface is None else replace(found, insightface=options.insightface)


def weights(identity: IdentityFiles) -> dict[str, str]:
    """SHA-256 of every model file that has a part in the pictures and in the scores."""
    roots = (identity.insightface,)
    faces = (*sorted(find_pack(roots).glob("*.onnx")), find_scorer(roots))
    own = (identity.checkpoint, identity.adapter, identity.control_net, *faces)
    return {path.name: sha256(path) for path in (*own, *map(shipped.path, shipped.FLUX))}


class Evaluation:
    """One evaluation in ``folder``, whose journal is open."""

    def __init__(self, journal: Journal, engine: SharedEngine, options: argparse.Namespace) -> None:
        self.journal, self.engine, self.options = journal, engine, options
        self.folder = journal.path.parent
        self.eyes = Eyes(engine.default_identity().insightface)
        self.set = Set(self.folder, self.eyes, options.count, options.size, options.steps)
        self.failed: dict[str, dict[str, Any]] = {}

    def threshold(self) -> Threshold:
        """Set once, before the first picture, and kept."""
        key = "threshold"
        if not self.journal.done(key):
            strangers = max(LEAST_STRANGERS, self.options.count)
            self.journal.add(key, asdict(self.eyes.threshold(strangers, os.cpu_count() or 1)))
        kept = self.journal.lines[key]
        return Threshold(kept["cosine"], kept["own"], kept["pairs"])

    def paint(self, asked: Sequence[Asked]) -> None:
        """Paint and score what is asked for; those that fail are tried again the next time."""
        for kind in (None, *ABLATIONS):
            part = [each for each in asked if (each.kind if each.kind in ABLATIONS else None) == kind]
            if part:
                self._paint(part, self._engine(kind))

    def _engine(self, kind: str | None) -> SharedEngine:
        if kind is None:
            return self.engine
        adapter = self.engine.default_identity().adapter
        return self.engine.with_adapter(ablation.write(adapter, kind, self.folder / "ablation"))

    def _paint(self, asked: Sequence[Asked], engine: SharedEngine) -> None:
        began = told = time.monotonic()
        studio = Studio(engine, self.options.batch)
        for done, (each, facts) in enumerate(studio.results(asked, self.set.work), start=1):
            if "error" in facts:
                self.failed[each.key] = facts
            else:
                self.journal.add(each.key, facts)
            now = time.monotonic()
            if done == len(asked) or now - told > REPORT_EVERY:
                told = now
                print(f"{done} of {len(asked)} pictures in {now - began:.0f} s ({each.kind})", file=sys.stderr)

    @property
    def lines(self) -> dict[str, dict[str, Any]]:
        return self.journal.lines | self.failed


def show(content: Mapping[str, Any]) -> None:
    """The tables, in Markdown."""
    set_at = content["threshold"]
    print(f"\nPictures of {content['size']} px in {content['steps']} steps; one person above a cosine of", end=" ")
    print(f"{set_at['cosine']:.3f} (of {set_at['pairs']} drawn pairs of strangers 1 % are, of a person's own", end=" ")
    print(f"{100 * set_at['own']:.1f} %).")
    print("\n| row | pictures | accepted | 95 % interval | mean cosine | no face | failed |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row, found in content["rows"].items():
        rates = {f"{row}: {name}": each for name, each in found.items() if isinstance(each, dict) and "cosine" in each}
        grown = {f"sdxl: at strength {name}": each for name, each in found.get("growth", {}).items()}
        for name, each in (rates | grown).items():
            cosine = "" if each["cosine"] is None else f"{each['cosine']:.3f}"
            told = (each["total"], percent(each), interval(each), cosine, each["no_face"], each["failed"])
            print(f"| {name} | {' | '.join(map(str, told))} |")
    off = content["rows"].get("sdxl", {}).get("keypoints")
    if off:
        print(f"\nKeypoints off by {100 * off['mean']:.1f} % of the face's width, 95 % by {100 * off['95 %']:.1f} %.")
    flux = content["rows"].get(FLUX, {})
    if "plain" in flux:
        same = flux["same_outside"]
        print(f"\nOutside the mask ({100 * flux['masked']:.0f} % of the picture on average) {same['right']} of", end=" ")
        print(f"{same['total']} scenes are as FLUX painted them, pixel for pixel.\n")
        print("| right in the scene | without the face stage | with it |\n| --- | --- | --- |")
        for part, share in flux["plain"].items():
            print(f"| {part.replace('_', ' ')} | {percent(share)} | {percent(flux['faced'][part])} |")


def sheets(evaluation: Evaluation, rows: Sequence[str], threshold: float, folder: Path) -> None:
    """The first people of each row as they came, none picked; below each picture its score, red where it should not be."""
    lines, of = evaluation.lines, evaluation.set
    inputs = evaluation.engine.files.input

    def reference(number: int) -> Thumbnail:
        return Thumbnail(cast.photo(number, inputs), f"person {number}")

    def scored(asked: Asked, name: str = "similarity", wanted: bool = True) -> Thumbnail:
        value = lines[asked.key].get(name)
        told = "no face" if value is None else f"{value:.2f}"
        return Thumbnail(of.picture(asked), f"{asked.kind} {told}", (value is not None and value > threshold) != wanted)

    def part(row: str) -> list[Thumbnail]:
        people = range(min(SHOWN, max(1, of.count // 4)))
        if row == FLUX:
            chosen = [Asked(FLUX, number) for number in cast.fitting(max(1, of.count // 2))[:SHOWN]]
            plain = (Thumbnail(of.picture(each, "-plain"), "without the face stage") for each in chosen)
            return [t for three in zip(map(reference, (e.number for e in chosen)), plain, map(scored, chosen)) for t in three]
        if row == PAIRS:
            chosen = [Asked(PAIRS, number) for number in people]
            both = (
                Thumbnail(of.picture(each), " and ".join(scored(each, side).label[6:] for side in ("left", "right")),
                          any(scored(each, side).wrong for side in ("left", "right")))
                for each in chosen
            )  # fmt: skip
            return [t for e, b in zip(chosen, both) for t in (reference(2 * e.number), b, reference(2 * e.number + 1))]
        kinds = {DRAWN: [DRAWN], "ablation": [OWN, *ABLATIONS]}.get(
            row, [OWN, OTHER, *map(strength_name, STRENGTHS)]
        )
        unwanted = {OTHER, strength_name(0)}
        return [
            thumbnail
            for number in people
            for thumbnail in (reference(number), *(scored(Asked(k, number), wanted=k not in unwanted) for k in kinds))
        ]

    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        columns = {FLUX: 6, PAIRS: 6, DRAWN: 8, "ablation": 8}.get(row, 8)
        make(part(row), folder / f"people-{row}.jpg", columns=columns)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="models of a training that are not shipped: OUT/models")
    parser.add_argument("--insightface", type=Path, help="their face models: OUT/faces/insightface")
    parser.add_argument("--count", type=int, default=200, help="people; the rest follows (at least 2)")
    parser.add_argument("--size", type=int, default=256, help="width and height in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be given again")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a GPU where there is one")
    parser.add_argument("--batch", type=int, help=f"jobs at once; {GPU_BATCH} on a GPU, 1 without")
    parser.add_argument("--out", type=Path, default=REPO / "out" / "people", help="pictures and people.json")
    parser.add_argument("--pictures", type=Path, help="where the contact sheets go, instead of beside people.json")
    options = parser.parse_args()
    if options.count < 2:
        parser.error("--count is at least 2")
    if options.size < SMALLEST or options.size % 8:
        parser.error(f"--size is a multiple of 8 and at least {SMALLEST}")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if options.batch is None:
        options.batch = GPU_BATCH if torch.cuda.is_available() else 1
    return options


def main() -> int:
    options = arguments()
    logging.getLogger("ryla_nodes").setLevel(logging.CRITICAL)  # What a job says of its failure is noted.
    # InsightFace calls a deprecated method of scikit-image; what silences it elsewhere does not hold in threads.
    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")
    rows = [row for row in ROWS if row in (options.row or ROWS)]
    identity = judged(options)
    files = weights(identity)
    # Pictures of other weights are not taken for these.
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:8]
    folder = options.out / f"{options.size}px-{options.steps}steps-{options.count}people-{digest}"
    together = Together(options.batch) if options.batch > 1 else None
    engine = SharedEngine(folder / "home", ModelFolders({}), identity=identity, together=together)
    try:
        with Journal(folder / "journal.jsonl") as journal:
            evaluation = Evaluation(journal, engine, options)
            threshold = evaluation.threshold()
            evaluation.paint(missing(rows, options.count, journal.done))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.")
        return 130
    figures = Figures(rows, options.count, evaluation.lines, threshold.cosine)
    sheets(evaluation, rows, threshold.cosine, options.pictures or folder)
    content = {
        "size": options.size,
        "steps": options.steps,
        "cores": os.cpu_count(),
        "weights": files,
        "threshold": asdict(threshold),
        "rows": figures.content,
        "missed": [goal for goal, met in figures.goals().items() if not met],
    }
    (folder / "people.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(content)
    for error, times in Counter(line["error"] for line in evaluation.failed.values()).items():
        print(f"Failed {times} times: {error}")
    print("\n".join(f"Missed: {goal}" for goal in content["missed"]) or "Every goal is reached.")
    return 1 if content["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
