"""Drawn faces, and tiny ONNX files that let InsightFace find and tell them apart.

They stand in for antelopev2 and for the scoring recogniser where those cannot be had (the demo, the tests): InsightFace
itself runs as always. The detector answers to warm-coloured ellipses on a cooler ground, so it finds nothing in a
plain picture; the recogniser is a fixed projection of the aligned face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from ..files import write_whole
from .geometry import Array

if TYPE_CHECKING:
    import onnx

# Proportions of a drawn face, relative to its height: half width, and the five keypoints from the centre.
HALF_WIDTH = 0.39
KEYPOINTS = np.array([[-0.17, -0.08], [0.17, -0.08], [0.0, 0.12], [-0.14, 0.31], [0.14, 0.31]], np.float32)
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
STRIDES = (8, 16, 32)
ANCHOR_CELLS = (8.0, 12.0)
# Least contrast between a face and its surroundings, of 0.5 at most. Large faces are found in colourful noise as well,
# which is what made-up models render: so the two-stage workflow can be tried with them.
THRESHOLDS = {8: 0.30, 16: 0.25, 32: 0.06}
OFF_CENTER = 8.0
_KERNEL_RADIUS = 11
_POOL = 14
_POPULATION = 96
_VIEWS = 8
_COMPONENTS = 10


@dataclass(frozen=True)
class Person:
    """The looks of a drawn face: sRGB colours, and sizes relative to the face's height."""

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    iris: tuple[int, int, int]
    lips: tuple[int, int, int]
    cheeks: tuple[int, int, int]
    brow: float
    eye: float
    nose: float
    mouth: float


def person(seed: int) -> Person:
    """A made-up person, the same for the same seed."""
    rng = np.random.default_rng(seed)

    def color(low: tuple[int, int, int], high: tuple[int, int, int]) -> tuple[int, int, int]:
        mix = np.array(low) + rng.uniform(0, 1) * (np.array(high) - np.array(low))
        return int(mix[0]), int(mix[1]), int(mix[2])

    return Person(
        skin=color((250, 208, 165), (150, 92, 42)),
        hair=color((25, 25, 35), (190, 190, 200)),
        iris=color((40, 110, 70), (70, 90, 190)),
        lips=color((120, 30, 40), (230, 110, 110)),
        cheeks=color((255, 120, 60), (160, 130, 60)),
        brow=float(rng.uniform(0.005, 0.035)),
        eye=float(rng.uniform(0.02, 0.06)),
        nose=float(rng.uniform(0.02, 0.07)),
        mouth=float(rng.uniform(0.015, 0.06)),
    )


def draw_face(image: Image.Image, who: Person, center: tuple[float, float], height: float) -> None:
    """Draw a frontal face of ``height`` pixels onto an RGB image."""
    pen = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, rx: float, ry: float, fill: tuple[int, int, int]) -> None:
        cx, cy = center[0] + x * height, center[1] + y * height
        pen.ellipse((cx - rx * height, cy - ry * height, cx + rx * height, cy + ry * height), fill=fill)

    ellipse(0, -0.08, HALF_WIDTH + 0.07, 0.52, who.hair)
    ellipse(0, 0, HALF_WIDTH, 0.5, who.skin)
    for side in (-1, 1):
        ellipse(side * 0.22, 0.17, 0.1, 0.08, who.cheeks)
    for x, y in KEYPOINTS[:2]:
        ellipse(x, y, 0.075, who.eye, (240, 240, 245))
        ellipse(x, y, 0.034, min(0.034, who.eye), who.iris)
        ellipse(x, y - 0.1, 0.085, who.brow, who.hair)
    ellipse(0, float(KEYPOINTS[2, 1]), 0.045, who.nose, (who.skin[0] - 40, who.skin[1] - 40, who.skin[2] - 40))
    ellipse(0, float(KEYPOINTS[3, 1]), 0.14, who.mouth, who.lips)


def portrait(
    seed: int, width: int = 768, height: int = 768, *, face: float = 0.4, center: tuple[float, float] = (0.5, 0.45)
) -> Image.Image:
    """Picture of ``person(seed)``: face height and centre as fractions of the picture, on a cool gradient."""
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    ground = np.array([70, 95, 120]) + ramp * np.array([30, 30, 35])
    image = Image.fromarray(np.broadcast_to(ground, (height, width, 3)).astype(np.uint8))
    draw_face(image, person(seed), (center[0] * width, center[1] * height), face * height)
    return image


def ensure_models(folder: Path) -> Path:
    """Write the stand-ins for antelopev2 and the scoring recogniser below the ``insightface`` folder, if not there."""
    for name, build in _FILES.items():
        path = folder / "models" / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, build().SerializeToString())
    return folder


def detector() -> onnx.ModelProto:
    """SCRFD's interface: any input size; 9 outputs (score, box, keypoints at strides 8, 16, 32), 2 anchors a cell."""
    from onnx import TensorProto, helper

    graph = _Graph()
    warmth = graph.add("Conv", "input.1", graph.constant(np.array([[1, 0, -1]], np.float32).reshape(1, 3, 1, 1)))
    warmth = graph.add("Clip", warmth, graph.constant(np.float32(0)), graph.constant(np.float32(0.5)))
    levels = [_level(graph, warmth, stride) for stride in STRIDES]
    outputs = []
    for kind, width in ((0, 1), (1, 4), (2, 10)):
        for stride, level in zip(STRIDES, levels, strict=True):
            name = f"{('score', 'bbox', 'kps')[kind]}_{stride}"
            graph.rename(level[kind], name)
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"n{stride}", width]))
    source = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "height", "width"])
    return graph.model("ryla_demo_detector", source, outputs)


def _level(graph: _Graph, warmth: str, stride: int) -> tuple[str, str, str]:
    """Score (n, 1), box (n, 4) and keypoints (n, 10) of one stride, in units of the stride."""
    cells = graph.add("AveragePool", warmth, kernel_shape=[stride, stride], strides=[stride, stride])
    pads = [_KERNEL_RADIUS] * 4
    # Per anchor: contrast against the ring, mass, and the mass's first moments.
    maps = graph.add("Conv", cells, graph.constant(_kernels()), pads=pads)
    contrast, mass, dx, dy = (
        graph.add("Gather", maps, graph.constant(np.array([i, i + 4], np.int64)), axis=1) for i in range(4)
    )
    weight = graph.add("Max", mass, graph.constant(np.float32(1e-3)))
    dx, dy = graph.add("Div", dx, weight), graph.add("Div", dy, weight)
    # Mass is 0.5 x the area of the ellipse (pi x 0.39 x 0.5 x size^2), less eyes, brows and shadow (5 %).
    area = graph.constant(np.float32(0.5 * 0.95 * np.pi * HALF_WIDTH * 0.5))
    square = graph.add("Div", weight, area)
    size = graph.add("Sqrt", square)
    # What lies beside the anchor is another anchor's: the contrast counts less the further off the mass is.
    distance = graph.add("Div", graph.add("Add", graph.add("Mul", dx, dx), graph.add("Mul", dy, dy)), square)
    centered = graph.add("Sub", contrast, graph.add("Mul", distance, graph.constant(np.float32(OFF_CENTER))))
    above = graph.add("Sub", centered, graph.constant(np.float32(THRESHOLDS[stride])))
    score = _rows(graph, graph.add("Sigmoid", graph.add("Mul", above, graph.constant(np.float32(24)))), 1)
    half = graph.constant(np.float32(0.5))
    x, y = graph.add("Add", dx, half), graph.add("Add", dy, half)
    state = graph.add("Concat", x, y, size, axis=1)
    box = np.array([[-1, 0, HALF_WIDTH], [0, -1, 0.5], [1, 0, HALF_WIDTH], [0, 1, 0.5]], np.float32)
    points = np.array([[1 - i, i, float(p[i])] for p in KEYPOINTS for i in range(2)], np.float32)
    return score, _linear(graph, state, box), _linear(graph, state, points)


def _linear(graph: _Graph, state: str, rows: Array) -> str:
    """Apply ``rows`` (k, 3) to (x, y, size) of both anchors; ``state`` channels are x x y y size size."""
    weights = np.zeros((2 * len(rows), 6, 1, 1), np.float32)
    for anchor in range(2):
        weights[anchor * len(rows) : (anchor + 1) * len(rows), anchor::2, 0, 0] = rows
    return _rows(graph, graph.add("Conv", state, graph.constant(weights)), len(rows))


def _rows(graph: _Graph, maps: str, width: int) -> str:
    last = graph.add("Transpose", maps, perm=[0, 2, 3, 1])
    return graph.add("Reshape", last, graph.constant(np.array([-1, width], np.int64)))


def _kernels() -> Array:
    """(8, 1, k, k): for each anchor the contrast, mass and first-moment kernels over one stride's cells."""
    offset = np.arange(-_KERNEL_RADIUS, _KERNEL_RADIUS + 1, dtype=np.float32)
    dx, dy = np.meshgrid(offset, offset)
    kernels = []
    for size in ANCHOR_CELLS:
        radius = np.hypot(dx / (HALF_WIDTH * size), dy / (0.5 * size))
        inside, ring, window = radius <= 1, (radius > 1.15) & (radius <= 1.6), radius <= 1.25
        kernels += [inside / inside.sum() - ring / ring.sum(), window, window * dx, window * dy]
    return np.stack(kernels)[:, None].astype(np.float32)


def recogniser(seed: int) -> onnx.ModelProto:
    """ArcFace's interface: (n, 3, 112, 112) in [-1, 1] -> (n, 512), centred on the average drawn face."""
    from onnx import TensorProto, helper

    average, discriminants = _discriminants()
    mixing = np.random.default_rng(seed).standard_normal((discriminants.shape[1], 512))
    projection = (discriminants @ mixing).astype(np.float32)
    graph = _Graph()
    cells = graph.add("AveragePool", "input.1", kernel_shape=[_POOL, _POOL], strides=[_POOL, _POOL])
    bias = graph.constant((-average @ projection).astype(np.float32))
    embedding = graph.add("Gemm", graph.add("Flatten", cells), graph.constant(projection), bias)
    graph.rename(embedding, "embedding")
    source = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["n", 3, 112, 112])
    target = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 512])
    return graph.model("ryla_demo_recogniser", source, [target])


@cache
def _discriminants() -> tuple[Array, Array]:
    """Fisher's linear discriminants of drawn people, each seen with the detector's errors: mean, (features, k)."""
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-0.06, 0.06, (_VIEWS, 3))
    views = np.stack([[_pooled(index, *errors) for errors in jitter] for index in range(_POPULATION)])
    people = views.mean(axis=1)
    within = (views - people[:, None]).reshape(-1, views.shape[-1])
    scatter = within.T @ within / len(within)
    scatter += np.eye(len(scatter)) * np.trace(scatter) / len(scatter) * 0.05
    values, vectors = np.linalg.eigh(scatter)
    whiten = vectors / np.sqrt(values)
    _, spread, components = np.linalg.svd((people - people.mean(axis=0)) @ whiten, full_matrices=False)
    kept = components[:_COMPONENTS].T / spread[:_COMPONENTS] * len(people) ** 0.5
    return people.mean(axis=0).astype(np.float32), (whiten @ kept).astype(np.float32)


def _pooled(seed: int, right: float, down: float, larger: float) -> Array:
    """What the recogniser's pooling sees of ``person(seed)``, with the face found a little off (in face heights)."""
    side = 256
    face, span = 0.6 * side, float(ARCFACE_TEMPLATE[3:, 1].mean() - ARCFACE_TEMPLATE[:2, 1].mean())
    image = portrait(seed, side, side, face=0.6, center=(0.5, 0.5))
    scale = face * (1 + larger) * float(KEYPOINTS[3, 1] - KEYPOINTS[0, 1]) / span
    middle = ARCFACE_TEMPLATE.mean(axis=0)
    target = (KEYPOINTS.mean(axis=0) + np.array([right, down])) * face + side / 2
    matrix = (scale, 0, float(target[0] - scale * middle[0]), 0, scale, float(target[1] - scale * middle[1]))
    aligned = image.transform((112, 112), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    pixels = (np.asarray(aligned, np.float32).transpose(2, 0, 1) - 127.5) / 127.5
    cells = 112 // _POOL
    return np.asarray(pixels.reshape(3, cells, _POOL, cells, _POOL).mean(axis=(2, 4)).ravel(), np.float32)


_FILES: dict[str, Callable[[], onnx.ModelProto]] = {
    "antelopev2/scrfd_10g_bnkps.onnx": detector,
    "antelopev2/glintr100.onnx": lambda: recogniser(seed=1),
    "buffalo_l/w600k_r50.onnx": lambda: recogniser(seed=2),
}


class _Graph:
    """Collects ONNX nodes; every value gets a fresh name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def rename(self, value: str, name: str) -> None:
        """Give the output of a node its public name."""
        node = next(node for node in self._nodes if value in node.output)
        node.output[0] = name

    def model(self, name: str, source: Any, outputs: list[Any]) -> onnx.ModelProto:
        from onnx import checker, helper

        graph = helper.make_graph(self._nodes, name, [source], outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        checker.check_model(model)
        return model
