"""Asks for pictures through the real ``ryla run`` on the embedded engine, and judges what comes back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from ryla_nodes.identity.proportion import wilson_interval

from .captions import mira_caption
from .sample import held_out, judge
from .scenes import FACE_BACKGROUNDS, MIRA, Scene

RYLA = (sys.executable, "-c", "from ryla_nodes.cli.app import main; main()")
Key = tuple[str, int, float | None]


@dataclass(frozen=True)
class Asked:
    """A picture to paint, of ``scene``. ``strength`` is that of the LoRA mira; None paints without it."""

    scene: Scene
    prompt: str
    seed: int
    strength: float | None = None

    @property
    def key(self) -> Key:
        return self.prompt, self.seed, self.strength

    def row(self) -> dict[str, object]:
        """The row of ``ryla run --batch``."""
        row: dict[str, object] = {"prompt": self.prompt, "seed": self.seed}
        return row if self.strength is None else {**row, "lora_id": "mira", "lora_strength": self.strength}


@dataclass(frozen=True)
class Painted:
    """The file of a picture and the seconds that the engine took for it."""

    file: Path
    seconds: float


@dataclass(frozen=True)
class Share:
    """How many pictures of how many are right, with the Wilson 95 % interval of their share."""

    right: int
    total: int

    @property
    def rate(self) -> float:
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.right, self.total)

    def as_dict(self) -> dict[str, object]:
        return {"right": self.right, "total": self.total, "rate": self.rate, "interval": self.interval}


def scenes(count: int, seed: int, *, faces: bool) -> list[Asked]:
    """Pictures of held-out scenes, each with a seed of its own."""
    return [Asked(scene, text, seed + row) for row, (scene, text) in enumerate(held_out(count, seed, faces))]


def mira(count: int, seed: int, strength: float | None) -> list[Asked]:
    """Pictures of the character: the same prompts and seeds for every ``strength``."""
    rng = random.Random(seed)
    grounds = [FACE_BACKGROUNDS[row % len(FACE_BACKGROUNDS)] for row in range(count)]
    return [Asked(MIRA, mira_caption(rng, ground), seed + row, strength) for row, ground in enumerate(grounds)]


def paint(
    asked: Sequence[Asked], folder: Path, size: int, steps: int, home: Path, speed: str = "off"
) -> dict[Key, Painted]:
    """Paint all of ``asked`` in one ``ryla run``; called again, it goes on with those that ``folder`` lacks.

    ``home`` is the engine's folder. The user's own RYLA_ variables do not count, so that no other models are taken.

    Raises:
        subprocess.CalledProcessError: the command failed; it has told why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "asked.jsonl"
    rows.write_text("".join(json.dumps(one.row()) + "\n" for one in asked), encoding="utf-8")
    options = {"--engine": "embedded", "--batch": rows, "--width": size, "--height": size, "--steps": steps}
    options["--speed"] = speed
    flags = [str(part) for option in options.items() for part in option]
    others = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    subprocess.run(
        [*RYLA, "run", "flux-dev", *flags, "-o", str(folder / "{index:04}.png")],
        env=others | {"RYLA_HOME": str(home)},
        check=True,
    )
    made = _made(folder)
    return {one.key: made[one.key] for one in asked}


def _made(folder: Path) -> dict[Key, Painted]:
    made: dict[Key, Painted] = {}
    for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["state"] == "succeeded":
            used = entry["parameters"]
            key = used["prompt"], used["seed"], used["lora_strength"] if used["lora_id"] else None
            made[key] = Painted(folder / entry["files"][0], entry["execution_seconds"])
    return made


def read(file: Path) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of a picture."""
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def verdicts(scenes: Sequence[Scene], files: Sequence[Path]) -> list[dict[str, bool]]:
    """Which attributes of its scene each picture shows; see ``sample.judge``."""
    return [judge(scene, read(file)) for scene, file in zip(scenes, files, strict=True)]


def shares(judged: Sequence[Mapping[str, bool]]) -> dict[str, Share]:
    """The share of pictures that are right in each attribute, and in ``all`` of them."""
    return {name: Share(sum(one[name] for one in judged), len(judged)) for name in judged[0]}


def shuffled(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """The scenes in another order, none in its own place: one random cycle through all of them."""
    ring = random.Random(seed).sample(range(len(scenes)), len(scenes))
    following = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    return [scenes[following[row]] for row in range(len(scenes))]
