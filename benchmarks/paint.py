"""Do the shipped models paint what they are asked for? Held-out prompts and the LoRA mira, through `ryla run`.

    python benchmarks/paint.py [--count 200] [--size 256] [--steps 20] [--speed off] [--out out/paint]
                               [--pictures docs/pictures]

Paints on the embedded engine: `count` shapes, half as many faces, half as many pictures of mira with her LoRA and
without it, and a fifth as many at each strength between. Interrupt it at will: the same command goes on. Every picture
is judged by `training/checker.py`, none by eye. Prints the tables of docs/benchmarks.md, writes `paint.json` and
contact sheets, and ends with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "custom_nodes")]

from ryla_nodes.batch.contact_sheet import Thumbnail, make  # noqa: E402
from ryla_nodes.files import sha256  # noqa: E402
from ryla_nodes.models import catalogue, shipped  # noqa: E402
from ryla_nodes.sheet import Style  # noqa: E402

from training import evaluation  # noqa: E402
from training.evaluation import Asked, Key, Painted, Share  # noqa: E402

SEED = 2026
STRENGTHS = (None, 0.0, 0.25, 0.5, 0.75, 1.0)
GOALS = {"shape": 0.95, "colour": 0.95, "position": 0.95, "all": 0.90}
SHEET_COLUMNS = 6
STYLE = Style(tile=152, font=11, paper="white", ink=(40, 40, 44))
SHUFFLED_GOAL, MIRA_GOAL, WITHOUT_GOAL = 0.15, 0.90, 0.05


def weights() -> dict[str, str]:
    """SHA-256 of every shipped model file."""
    return {entry.filename: sha256(shipped.path(entry.id)) for entry in catalogue.load() if entry.shipped}


def questions(count: int) -> dict[str, list[Asked]]:
    """All that is asked for, by what it is."""
    asked = {
        name: evaluation.scenes(count // part, SEED, faces=part > 1) for name, part in (("shapes", 1), ("faces", 2))
    }
    for strength in STRENGTHS:
        pictures = count // 2 if strength in (None, 1.0) else count // 5
        asked[mira_name(strength)] = evaluation.mira(pictures, SEED, strength)
    return asked


def mira_name(strength: float | None) -> str:
    return "without" if strength is None else f"strength {strength:g}"


def judged(asked: Sequence[Asked], made: Mapping[Key, Painted]) -> list[dict[str, bool]]:
    return evaluation.verdicts([one.scene for one in asked], [made[one.key].file for one in asked])


def against_others(asked: Sequence[Asked], made: Mapping[Key, Painted]) -> list[dict[str, bool]]:
    """The same pictures, each judged by the prompt of another one."""
    scenes = evaluation.shuffled([one.scene for one in asked], SEED)
    return evaluation.verdicts(scenes, [made[one.key].file for one in asked])


def equal(left: Sequence[Asked], right: Sequence[Asked], made: Mapping[Key, Painted]) -> Share:
    """How many pictures of two lists are the same, pixel for pixel, as far as the shorter one goes."""
    pairs = [(made[a.key].file, made[b.key].file) for a, b in zip(left, right, strict=False)]
    same = sum(np.array_equal(evaluation.read(a), evaluation.read(b)) for a, b in pairs)
    return Share(same, len(pairs))


def figures_of(asked: Sequence[Asked], made: Mapping[Key, Painted]) -> dict[str, Any]:
    """The rates of one kind of scene, those by another picture's prompt, and each picture that is not as asked for."""
    verdicts = judged(asked, made)
    return {
        "rates": as_dicts(evaluation.shares(verdicts)),
        "shuffled": as_dicts(evaluation.shares(against_others(asked, made))),
        "wrong": [
            {"file": made[one.key].file.name, "prompt": one.prompt, "parts": parts}
            for one, right in zip(asked, verdicts, strict=True)
            if (parts := [part for part, good in right.items() if part != "all" and not good])
        ],
    }


def growth(by_strength: Sequence[Sequence[Asked]], made: Mapping[Key, Painted]) -> list[float]:
    """The share of mira at each strength, in the prompts and seeds that all strengths have."""
    common = min(map(len, by_strength))
    return [evaluation.shares(judged(asked[:common], made))["all"].rate for asked in by_strength]


def as_dicts(shares: Mapping[str, Share]) -> dict[str, dict[str, object]]:
    return {name: share.as_dict() for name, share in shares.items()}


def figures(asked: Mapping[str, Sequence[Asked]], made: Mapping[Key, Painted]) -> dict[str, Any]:
    """All that is measured."""
    names = [mira_name(strength) for strength in STRENGTHS]
    return {
        "pictures": len(made),
        "seconds": statistics.median(one.seconds for one in made.values()),
        "shapes": figures_of(asked["shapes"], made),
        "faces": figures_of(asked["faces"], made),
        "mira": as_dicts({name: evaluation.shares(judged(asked[name], made))["all"] for name in names}),
        "growth": growth([asked[name] for name in names[1:]], made),
        "strength_0_equals_without": equal(asked[mira_name(0.0)], asked["without"], made).as_dict(),
    }


def missed(found: Mapping[str, Any]) -> list[str]:
    """The goals that are not reached."""
    shapes, mira = found["shapes"]["rates"], found["mira"]
    rates = found["growth"]
    reached = {
        **{f"shapes, {name} in {goal:.0%}": shapes[name]["rate"] >= goal for name, goal in GOALS.items()},
        f"shuffled prompts in at most {SHUFFLED_GOAL:.0%}": found["shapes"]["shuffled"]["all"]["rate"] <= SHUFFLED_GOAL,
        f"mira at strength 1 in {MIRA_GOAL:.0%}": mira[mira_name(1.0)]["rate"] >= MIRA_GOAL,
        f"mira without the LoRA in at most {WITHOUT_GOAL:.0%}": mira["without"]["rate"] <= WITHOUT_GOAL,
        "strength 0 equals no LoRA": found["strength_0_equals_without"]["rate"] == 1,
        "the rate grows with strength": rates == sorted(rates) and rates[-1] > rates[0],
    }
    return [goal for goal, met in reached.items() if not met]


def percent(share: Mapping[str, Any]) -> str:
    return f"{100 * share['rate']:.1f} %"


def interval(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{100 * low:.1f} to {100 * high:.1f}"


def show(content: Mapping[str, Any]) -> None:
    """The Markdown of docs/benchmarks.md."""
    size = f"{content['size']}x{content['size']}"
    print(f"\n{content['pictures']} pictures of {size}, {content['steps']} steps: {content['seconds']:.2f} s each.")
    for name in ("shapes", "faces"):
        rates, shuffled = content[name]["rates"], content[name]["shuffled"]
        print(f"\n| {rates['all']['total']} held-out {name} | right | 95 % interval | by another's prompt |")
        print("| --- | --- | --- | --- |")
        for part, share in rates.items():
            print(f"| {part.replace('_', ' ')} | {percent(share)} | {interval(share)} | {percent(shuffled[part])} |")
    print("\n| LoRA `mira` | pictures | all of her attributes | 95 % interval |\n| --- | --- | --- | --- |")
    for name, share in content["mira"].items():
        print(f"| {name} | {share['total']} | {percent(share)} | {interval(share)} |")
    zero = content["strength_0_equals_without"]
    print(f"\nStrength 0 and no LoRA: {zero['right']} of {zero['total']} pictures are equal, pixel for pixel.")


def sheets(asked: Mapping[str, Sequence[Asked]], made: Mapping[Key, Painted], folder: Path) -> None:
    """The first pictures of each kind as they came, none picked; the prompts of wrong ones are red."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, count in (("shapes", 24), ("faces", 18)):
        first = asked[kind][:count]
        right = [verdict["all"] for verdict in judged(first, made)]
        shown = [Thumbnail(made[one.key].file, one.prompt, not good) for one, good in zip(first, right, strict=True)]
        make(shown, folder / f"{kind}.jpg", columns=SHEET_COLUMNS, lines=4, style=STYLE)
    names = [mira_name(strength) for strength in STRENGTHS[1:]]
    of_mira = [Thumbnail(made[one.key].file, name) for name in names for one in asked[name][:SHEET_COLUMNS]]
    make(of_mira, folder / "mira.jpg", columns=SHEET_COLUMNS, style=STYLE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="shapes; the rest follows (at least 30)")
    parser.add_argument("--size", type=int, default=256, help="width and height in pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--speed", default="off", help="off, exact or fast; the last two want a GPU")
    parser.add_argument("--out", type=Path, default=REPO / "out" / "paint", help="pictures and paint.json")
    parser.add_argument("--pictures", type=Path, help="where the contact sheets go, instead of beside paint.json")
    options = parser.parse_args()
    files = weights()
    # Pictures of other weights are not taken for these.
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()[:8]
    folder = options.out / f"{options.size}px-{options.steps}steps-{options.speed}-{digest}"
    asked = questions(options.count)
    everything = [one for group in asked.values() for one in group]
    try:
        made = evaluation.paint(everything, folder, options.size, options.steps, options.out / "home", options.speed)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.")
        return 130
    sheets(asked, made, options.pictures or folder)
    facts = {
        "size": options.size,
        "steps": options.steps,
        "speed": options.speed,
        "cores": os.cpu_count(),
        "weights": files,
    }
    content = facts | figures(asked, made)
    content["missed"] = missed(content)
    (folder / "paint.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    show(content)
    print("\n".join(f"Missed: {goal}" for goal in content["missed"]) or "Every goal is reached.")
    return 1 if content["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
