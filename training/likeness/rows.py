"""What is painted for each row of the evaluation, and what is noted of each picture.

A row's pictures go through the workflows' own graphs, bound as ``ryla run`` binds them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.files import replacing, sha256
from ryla_nodes.identity.geometry import Array, place_keypoints
from ryla_nodes.workflows import manifest
from ryla_nodes.workflows.graph import Graph
from ryla_nodes.workflows.workflow import BoundPrompt, Workflow, bind

from ..checker import read_face
from ..evaluation import read
from ..sample import judge
from ..scenes import FaceScene
from ..sdxl.bank import PLACES
from . import cast
from .engine import TOUCHED, JobFailed, Painter
from .scores import Eyes, Face, alike, apart, sides

Facts = dict[str, Any]
SEED = 2026
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 1.0)
"""Beside the workflow's own, ``DEFAULT``."""
DEFAULT = 0.8
OWN, OTHER, FLUX, PAIRS, DRAWN = "own", "other", "flux", "pairs", "drawn"
ABLATIONS = ("without-middle", "wrong-order")
_DRAWN_VIEW = 9
_LEAST_FACE = 256
_PAIR_FACE = 0.28
"""Height of each of two faces in parts of the picture: the middle of what is drawn for training."""


@dataclass(frozen=True)
class Asked:
    """One picture: of what ``kind``, and of which person, the first of whom is 0."""

    kind: str
    number: int

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.number:04}"


def strength_name(strength: float) -> str:
    return f"strength-{strength:g}"


@dataclass(frozen=True)
class Set:
    """Where the pictures of one evaluation are made and kept, of ``count`` people, ``size`` pixels, in ``steps``."""

    folder: Path
    eyes: Eyes
    count: int
    size: int
    steps: int

    def picture(self, asked: Asked, what: str = "") -> Path:
        """Where a picture is kept."""
        return self.folder / "pictures" / f"{asked.kind}-{asked.number:04}{what}.png"

    def work(self, painter: Painter, asked: Asked) -> Facts:
        """Paint ``asked`` and say what it shows; of a job that failed, ``error``."""
        makers: Mapping[str, Callable[[Painter, Asked], Facts]] = {
            FLUX: self._flux, PAIRS: self._pair, DRAWN: self._drawn,
        }  # fmt: skip
        try:
            facts = makers.get(asked.kind, self._sdxl)(painter, asked)
        except JobFailed as error:
            return {"error": str(error)}
        file = self.picture(asked)
        return {"file": str(file.relative_to(self.folder)), "sha256": sha256(file), **facts}

    def photo(self, number: int, painter: Painter) -> Path:
        return cast.photo(number, painter.engine.files.input)

    def _drawn(self, painter: Painter, asked: Asked) -> Facts:
        """Another drawn view in place of a painted picture: nothing that is painted can be more alike."""
        file = self.picture(asked)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cast.drawn(asked.number, _DRAWN_VIEW)).save(file)
        return {"similarity": alike(self.eyes.face(self.photo(asked.number, painter)), self._face(file))}

    def _sdxl(self, painter: Painter, asked: Asked) -> Facts:
        number = asked.number
        shown = (number + 1) % self.count if asked.kind == OTHER else number
        values: Facts = {}
        if asked.kind.startswith("strength-"):
            values["instantid_strength"] = float(asked.kind.removeprefix("strength-"))
        photo = self.photo(shown, painter)
        bound = self._bound("sdxl-instantid", photo, number, values | {"prompt": cast.prompt(number)})
        self._paint(painter, bound.graph, {"": _titled(bound.graph, "Result")}, asked)
        known, made = self.eyes.face(self.photo(number, painter)), self._face(self.picture(asked))
        wanted = self._keypoints(bound.graph, photo)
        off = None if made is None or wanted is None else apart(made, wanted)
        return {"similarity": alike(known, made), "off": off, "prompt": bound.parameters["prompt"]}

    def _keypoints(self, graph: Graph, photo: Path) -> Array | None:
        """Where the workflow asks for the five points, in pixels."""
        pose = self.eyes.face(photo)
        inputs = graph[_titled(graph, "Keypoints")]["inputs"]
        if pose is None:
            return None
        center = (inputs["center_x"], inputs["center_y"])
        return place_keypoints(pose.keypoints, self.size, self.size, face_height=inputs["face_size"], center=center)

    def _flux(self, painter: Painter, asked: Asked) -> Facts:
        scene = cast.scene(asked.number)
        assert scene is not None
        photo = self.photo(asked.number, painter)
        values = {
            "prompt": cast.scene_prompt(asked.number, scene),
            "face_steps": self.steps,
            "face_pixels": max(_LEAST_FACE, self.size),
            "on_no_face": "pass",
        }
        graph = self._bound("flux-instantid", photo, asked.number, values).graph
        saving = _titled(graph, "Result")
        plain = {**graph[saving]["inputs"], "images": [_titled(graph, "Scene"), 0]}
        graph["plain"] = {**graph[saving], "inputs": plain}
        graph["mask"] = {**graph[saving], "inputs": {**plain, "images": [self._add_mask(painter, graph), 0]}}
        self._paint(painter, graph, {"": saving, "-plain": "plain", "-mask": "mask"}, asked)
        before, after, mask = (read(self.picture(asked, what)) for what in ("-plain", "", "-mask"))
        outside = ~mask.any(axis=2)
        return {
            "similarity": alike(self.eyes.face(photo), self._face(self.picture(asked))),
            "changed_outside": int((before != after).any(axis=2)[outside].sum()),
            "masked": float(1 - outside.mean()),
            "plain": _attributes(scene, before),
            "faced": _attributes(scene, after),
            "prompt": values["prompt"],
        }

    def _add_mask(self, painter: Painter, graph: Graph) -> str:
        """Have the workflow put a white face into a black picture: where it may change something."""
        for shade, name in enumerate(("black", "white")):
            file = painter.engine.files.input / f"{name}-{self.size}.png"
            if not file.exists():
                with replacing(file) as part:
                    Image.new("RGB", (self.size, self.size), (255 * shade,) * 3).save(part, "PNG")
            graph[name] = {"class_type": "LoadImage", "inputs": {"image": file.name}}
        composite = graph[_titled(graph, "Composite")]
        inputs = {**composite["inputs"], "image": ["black", 0], "refined": ["white", 0], "color_match": 0.0}
        graph["masked"] = {**composite, "inputs": inputs}
        graph["touched"] = {"class_type": TOUCHED, "inputs": {"image": ["masked", 0]}}
        return "touched"

    def _pair(self, painter: Painter, asked: Asked) -> Facts:
        people = [2 * asked.number, 2 * asked.number + 1]
        photos = [self.photo(number, painter) for number in people]
        text = cast.prompt(asked.number, pair=True)
        graph = self._bound("sdxl-instantid", photos[0], asked.number, {"prompt": text}).graph
        _two(graph, photos[1], self._masks(painter))
        self._paint(painter, graph, {"": _titled(graph, "Result")}, asked)
        found = sides(self.eyes.faces(read(self.picture(asked))), self.size)
        known = [self.eyes.face(photo) for photo in photos]
        return {
            "left": alike(known[0], found[0]),
            "right": alike(known[1], found[1]),
            "left_as_right": alike(known[1], found[0]),
            "right_as_left": alike(known[0], found[1]),
            "prompt": text,
        }

    def _masks(self, painter: Painter) -> tuple[Path, Path]:
        """White on the left half, and on the right one."""
        made = []
        for column, name in enumerate(("left", "right")):
            mask = np.zeros((64, 64), np.uint8)
            mask[:, 32 * column : 32 * (column + 1)] = 255
            made.append(painter.engine.files.input / f"{name}.png")
            if not made[-1].exists():
                with replacing(made[-1]) as part:
                    Image.fromarray(mask).convert("RGB").save(part, "PNG")
        return made[0], made[1]

    def _face(self, file: Path) -> Face | None:
        return next(iter(self.eyes.faces(read(file))), None)

    def _bound(self, workflow: str, photo: Path, number: int, values: Mapping[str, Any]) -> BoundPrompt:
        shared = {
            "reference_image": str(photo), "seed": SEED + number, "width": self.size, "height": self.size,
            "steps": self.steps, "format": "png",
        }  # fmt: skip
        return bind(_workflow(workflow), {**shared, **values})

    def _paint(self, painter: Painter, graph: Graph, saves: Mapping[str, str], asked: Asked) -> None:
        for what, node in saves.items():
            graph[node]["inputs"] |= {"filename_prefix": f"{asked.key}{what}", "metadata": False}
        for what, file in zip(saves, painter.paint(graph, list(saves.values())), strict=True):
            kept = self.picture(asked, what)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, kept)


@cache
def _workflow(name: str) -> Workflow:
    return manifest.load(name, settings.load({}))


def _titled(graph: Graph, title: str) -> str:
    return next(node for node, content in graph.items() if content.get("_meta", {}).get("title") == title)


def _attributes(scene: FaceScene, picture: cast.Picture) -> dict[str, bool]:
    right = judge(scene, picture)
    del right["all"]
    return right | {"background": read_face(picture).background == scene.background}


def _two(graph: Graph, photo: Path, masks: tuple[Path, Path]) -> None:
    """A second person in ``sdxl-instantid``'s graph: the first on the left, the one of ``photo`` on the right."""
    titles = ("Reference photo", "Reference face", "Keypoints", "Identity", "Speed", "Sampler")
    reference, face, keypoints, identity, speed, sampler = (_titled(graph, title) for title in titles)
    for node in (reference, face, keypoints, identity):
        graph[f"{node}-2"] = {**graph[node], "inputs": dict(graph[node]["inputs"])}
    graph[f"{reference}-2"]["inputs"]["image"] = photo.name
    graph[f"{face}-2"]["inputs"]["images"] = [f"{reference}-2", 0]
    graph[f"{keypoints}-2"]["inputs"]["image"] = [f"{reference}-2", 0]
    chained = {name: [identity, output] for output, name in enumerate(("model", "positive", "negative"))}
    own = {"face": [f"{face}-2", 0], "keypoints": [f"{keypoints}-2", 0]}
    graph[f"{identity}-2"]["inputs"] |= chained | own
    for node, name, output in ((speed, "model", 0), (sampler, "positive", 1), (sampler, "negative", 2)):
        graph[node]["inputs"][name] = [f"{identity}-2", output]
    for side, suffix in enumerate(("", "-2")):
        graph[f"mask{suffix}"] = {
            "class_type": "LoadImageMask", "inputs": {"image": masks[side].name, "channel": "red"},
        }  # fmt: skip
        graph[f"{identity}{suffix}"]["inputs"]["mask"] = [f"mask{suffix}", 0]
        graph[f"{keypoints}{suffix}"]["inputs"] |= {"center_x": PLACES[side], "face_size": _PAIR_FACE}


def asked_for(row: str, count: int) -> Iterator[Asked]:
    """The pictures of a row."""
    part = max(1, count // 4)
    whole = range(count)
    if row == DRAWN:
        yield from (Asked(DRAWN, number) for number in whole)
    elif row == "sdxl":
        for kind, numbers in ((OWN, whole), (OTHER, whole), (strength_name(0), whole)):
            yield from (Asked(kind, number) for number in numbers)
        yield from (Asked(strength_name(s), number) for s in STRENGTHS[1:] for number in range(part))
    elif row == FLUX:
        yield from (Asked(FLUX, number) for number in cast.fitting(max(1, count // 2)))
    elif row == PAIRS:
        yield from (Asked(PAIRS, number) for number in range(part))
    else:
        yield from (Asked(OWN, number) for number in range(part))
        yield from (Asked(kind, number) for kind in ABLATIONS for number in range(part))
