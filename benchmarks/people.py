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
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "custom_nodes")]

import torch  # noqa: E402
from ryla_nodes.acceptance.journal import Journal  # noqa: E402
from ryla_nodes.engines.embedded.engine import EmbeddedEngine  # noqa: E402
from ryla_nodes.files import sha256  # noqa: E402
from ryla_nodes.models import shipped  # noqa: E402
from ryla_nodes.models.folders import ModelFolders  # noqa: E402
from ryla_nodes.models.identity_files import IdentityFiles, find_pack, find_scorer  # noqa: E402

from training.likeness import crew  # noqa: E402
from training.likeness.crew import Order  # noqa: E402
from training.likeness.figures import ROWS, Figures, missing  # noqa: E402
from training.likeness.report import Sheets, tables  # noqa: E402
from training.likeness.rows import Asked, Facts  # noqa: E402
from training.likeness.scores import Eyes, Threshold  # noqa: E402
from training.sdxl.export import files as trained  # noqa: E402

REPORT_EVERY = 20.0
LEAST_STRANGERS = 8
GPU_BATCH, GPU_PROCESSES = 24, 4
SMALLEST = 256


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


def threshold(order: Order, journal: Journal) -> Threshold:
    """Set once, before the first picture, and kept."""
    key = "threshold"
    if not journal.done(key):
        threads = (os.cpu_count() or 1) if order.batch * order.processes > 1 else 1
        journal.add(key, asdict(Eyes(order.identity.insightface).threshold(max(LEAST_STRANGERS, order.count), threads)))
    kept = journal.lines[key]
    return Threshold(kept["cosine"], kept["own"], kept["pairs"])


def paint(order: Order, asked: Sequence[Asked], journal: Journal) -> dict[str, Facts]:
    """Paint and score what is asked for; what is noted of those that failed, which the next run tries again."""
    began = told = time.monotonic()
    failed = {}
    for done, (each, facts) in enumerate(crew.paint(order, asked), start=1):
        if "error" in facts:
            failed[each.key] = facts
        else:
            journal.add(each.key, facts)
        now = time.monotonic()
        if done == len(asked) or now - told > REPORT_EVERY:
            told = now
            print(f"{done} of {len(asked)} pictures in {now - began:.0f} s ({each.kind})", file=sys.stderr)
    return failed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="models of a training that are not shipped: OUT/models")
    parser.add_argument("--insightface", type=Path, help="their face models: OUT/faces/insightface")
    parser.add_argument("--count", type=int, default=200, help="people; the rest follows (at least 2)")
    parser.add_argument("--size", type=int, default=256, help="width and height in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be given again")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto takes a GPU where there is one")
    parser.add_argument("--batch", type=int, help=f"jobs at once in a process; {GPU_BATCH} on a GPU, 1 without")
    parser.add_argument("--processes", type=int, help=f"{GPU_PROCESSES} on a GPU, 1 without")
    parser.add_argument("--out", type=Path, default=REPO / "out" / "people", help="pictures and people.json")
    parser.add_argument("--pictures", type=Path, help="where the contact sheets go, instead of beside people.json")
    options = parser.parse_args()
    if options.count < 2:
        parser.error("--count is at least 2")
    if options.size < SMALLEST or options.size % 8:
        parser.error(f"--size is a multiple of 8 and at least {SMALLEST}")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    gpu = torch.cuda.is_available()
    options.batch = options.batch or (GPU_BATCH if gpu else 1)
    options.processes = options.processes or (GPU_PROCESSES if gpu else 1)
    return options


def main() -> int:
    options = arguments()
    rows = [row for row in ROWS if row in (options.row or ROWS)]
    identity = judged(options)
    files = weights(identity)
    # Pictures of other weights are not taken for these.
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:8]
    folder = options.out / f"{options.size}px-{options.steps}steps-{options.count}people-{digest}"
    order = Order(folder, identity, options.count, options.size, options.steps, options.batch, options.processes)
    crew.quiet(order)
    began = time.monotonic()
    try:
        with Journal(folder / "journal.jsonl") as journal:
            limit = threshold(order, journal)
            failed = paint(order, missing(rows, order.count, journal.done), journal)
            lines = journal.lines | failed
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.")
        return 130
    figures = Figures(rows, order.count, lines, limit.cosine)
    Sheets(order, lines, limit.cosine).write(rows, options.pictures or folder)
    content = {
        "size": order.size,
        "steps": order.steps,
        "cores": os.cpu_count(),
        "seconds": time.monotonic() - began,
        "weights": files,
        "threshold": asdict(limit),
        "rows": figures.content,
        "missed": [goal for goal, met in figures.goals().items() if not met],
    }
    (folder / "people.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n".join(tables(content)))
    for error, times in Counter(line["error"] for line in failed.values()).items():
        print(f"Failed {times} times: {error}")
    print("\n".join(f"Missed: {goal}" for goal in content["missed"]) or "Every goal is reached.")
    return 1 if content["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
