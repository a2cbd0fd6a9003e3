"""Writes the face networks as the files that InsightFace loads, and judges them by what it makes of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

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
