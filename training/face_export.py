"""Writes the face networks as the files that InsightFace loads, and judges them by what it makes of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from ryla_nodes.files import write_whole
from ryla_nodes.identity.faces import DetectedFace, FaceAnalyzer
from ryla_nodes.models.identity_files import find_pack
from torch import Tensor, nn

from .face_networks import ALIGNED, STRIDES, Detector, DetectorFile, Recogniser
from .face_stages import verification
from .people import boxes, keypoints, people, views
from .portraits import portraits

_VIEWS = 4
_SIDE = 320
_OPSET = 17
_NORMALISATION = ("weight", "bias", "running_mean", "running_var")
Network = TypeVar("Network", bound=nn.Module)


def export_detector(detector: Detector, path: Path) -> None:
    """SCRFD's interface: a picture of any size whose sides are multiples of 32; scores, boxes, points by stride."""
    names = [f"{kind}_{stride}" for kind in ("score", "bbox", "kps") for stride in STRIDES]
    axes = {"input.1": {2: "height", 3: "width"}, **{name: {0: f"n_{name}"} for name in names}}
    _export(DetectorFile(detector), torch.zeros(1, 3, 64, 64), names, axes, path)


def export_recogniser(recogniser: Recogniser, path: Path) -> None:
    """ArcFace's interface: aligned faces to embeddings."""
    shape = torch.zeros(2, 3, ALIGNED, ALIGNED)
    _export(recogniser, shape, ["embedding"], {"input.1": {0: "n"}, "embedding": {0: "n"}}, path)


def _export(module: nn.Module, example: Tensor, names: list[str], axes: dict[str, dict[int, str]], path: Path) -> None:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The newer exporter wants a package of its own.
        torch.onnx.export(
            module.cpu().eval(), (example,), out, input_names=["input.1"], output_names=names, dynamic_axes=axes,
            opset_version=_OPSET, dynamo=False,
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, out.getvalue())


def read_detector(path: Path) -> Detector:
    """The detector of a file of ``export_detector``."""
    return _read(Detector(), torch.zeros(1, 3, 64, 64), path)


def read_recogniser(path: Path) -> Recogniser:
    """The recogniser of a file of ``export_recogniser``."""
    return _read(Recogniser(), torch.zeros(2, 3, ALIGNED, ALIGNED), path)


@torch.no_grad()
def _read(network: Network, example: Tensor, path: Path) -> Network:
    """``network`` with the weights of its file, where a normalisation is part of the convolution before it."""
    import onnx

    graph = onnx.load(path).graph
    values = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    values |= {
        node.output[0]: values[node.input[0]] for node in graph.node if node.op_type == "Identity"
    }  # Equal ones.
    nodes = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "BatchNormalization")]
    found = iter([[values[name] for name in node.input if name in values] for node in nodes])
    layers = _layers(network.eval(), example)
    for layer, behind in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            weight, bias = next(found)
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.copy_(bias)
            elif isinstance(behind, nn.BatchNorm2d):
                behind.bias.copy_(bias)
                behind.running_var.fill_(1 - behind.eps)  # type: ignore[union-attr]
        elif isinstance(layer, nn.Linear):
            layer.weight.copy_(next(found)[0].T)
        elif isinstance(layer, nn.BatchNorm1d):
            layer.load_state_dict(dict(zip(_NORMALISATION, next(found), strict=True)), strict=False)
    return network


def _layers(network: nn.Module, example: Tensor) -> list[nn.Module]:
    """Convolutions, linear layers and normalisations in the order in which they run."""
    order: list[nn.Module] = []
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
    hooks = [
        module.register_forward_hook(lambda module, *_: order.append(module))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    network(example)
    for hook in hooks:
        hook.remove()
    return order


def judge(insightface: Path, count: int, folder: Path, report: Callable[[str], None]) -> None:
    """Report what InsightFace finds in ``_VIEWS`` pictures of each of ``count`` held-out people, and who is who."""
    analyzer = FaceAnalyzer(find_pack([insightface]), "CPU", [insightface])
    numbers = torch.arange(count).repeat_interleave(_VIEWS)
    who, view = people(numbers), views(len(numbers), torch.Generator().manual_seed(9), scale=(0.12, 0.42))
    drawn = (portraits(who, view, _SIDE).permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    truth, width = keypoints(who, view) * _SIDE, (boxes(who, view)[:, 2] - boxes(who, view)[:, 0]) * _SIDE
    found = [analyzer.faces(np.ascontiguousarray(picture)) for picture in drawn]
    _sheet(drawn, found, folder / "faces.png")
    seen = [index for index, faces in enumerate(found) if faces]
    off = torch.tensor([
        float((torch.from_numpy(found[index][0].keypoints) - truth[index]).norm(dim=1).mean() / width[index])
        for index in seen
    ])  # fmt: skip
    report(f"faces found: {len(seen)} of {len(found)}, more than one in {sum(len(each) > 1 for each in found)}")
    if not seen:
        return
    report(f"keypoints off, in widths of the face: mean {off.mean():.4f}, 95 % within {off.quantile(0.95):.4f}")
    whole = [index for index in range(count) if all(found[index * _VIEWS + each] for each in range(_VIEWS))]
    for name in ("recogniser", "scorer"):
        rows = [
            _embedding(analyzer, name, drawn[i * _VIEWS + e], found[i * _VIEWS + e][0])
            for i in whole
            for e in range(_VIEWS)
        ]
        if rows:
            embedded = torch.nn.functional.normalize(torch.stack(rows)).view(len(whole), _VIEWS, -1)
            share, threshold = verification(embedded)
            report(f"{name}: {share:.4f} of a person's pairs accepted at 1 % false accepts (cosine {threshold:.3f})")


def _embedding(analyzer: FaceAnalyzer, name: str, picture: np.ndarray, face: DetectedFace) -> Tensor:
    made = face.embedding if name == "recogniser" else analyzer.scoring_embedding(np.ascontiguousarray(picture), face)
    return torch.from_numpy(np.asarray(made, np.float32))


def _sheet(drawn: np.ndarray, found: list[list[DetectedFace]], path: Path) -> None:
    """The first 40 pictures with what was found in them."""
    sheet = Image.new("RGB", (8 * 160, 5 * 160))
    for index, (picture, faces) in enumerate(zip(drawn[:40], found, strict=False)):
        tile = Image.fromarray(picture)
        pen = ImageDraw.Draw(tile)
        for face in faces:
            pen.rectangle(
                (face.box.left, face.box.top, face.box.right, face.box.bottom), outline=(255, 255, 0), width=2
            )
            for x, y in face.keypoints:
                pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(0, 255, 0))
        sheet.paste(tile.resize((160, 160)), (index % 8 * 160, index // 8 * 160))
    sheet.save(path)
