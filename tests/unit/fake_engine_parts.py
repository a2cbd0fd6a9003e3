"""What the fake engine hands out: pictures, node classes, errors, and the graph that the tests run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

OUTPUT_CLASSES = ("SaveImage", "PreviewImage")
IMAGE = {"EmptyImage": ["IMAGE"], "FakePaint": ["IMAGE"], "ImageInvert": ["IMAGE"], "LoadImage": ["IMAGE", "MASK"]}


def png(text: str) -> bytes:
    """A small PNG with ``text`` in its metadata."""
    info, out = PngInfo(), io.BytesIO()
    info.add_text("prompt_id", text)
    Image.new("RGB", (8, 8), (200, 30, 90)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def jpeg(text: str) -> bytes:
    """A small JPEG with ``text`` as its comment."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 90)).save(out, "JPEG", comment=text.encode())
    return out.getvalue()


def node_error(kind: str, message: str, details: str, dependent: list[str]) -> dict[str, Any]:
    errors = [{"type": kind, "message": message, "details": details, "extra_info": {}}]
    return {"errors": errors, "dependent_outputs": dependent, "class_type": "EmptyImage"}


def node_class(name: str) -> dict[str, Any]:
    """``/object_info`` of a node class: ComfyUI's own for the few that the tests use."""
    images = {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "x"}]}
    required: dict[str, Any] = {
        "EmptyImage": {"width": ["INT", {"min": 1, "max": 16384}], "height": ["INT", {"min": 1, "max": 16384}],
                       "batch_size": ["INT", {"min": 1, "max": 4096}], "color": ["INT", {"min": 0, "max": 16777215}]},
        "ImageInvert": {"image": ["IMAGE"]}, "SaveImage": images, "PreviewImage": {"images": ["IMAGE"]},
        "LoadImage": {"image": [[], {"image_upload": True}]},
        "FakePaint": {"seed": ["INT", {"min": 0, "max": 2**64 - 1}], "text": ["STRING", {}]},
    }.get(name, {})  # fmt: skip
    outputs = IMAGE.get(name, [])
    return {"input": {"required": required}, "input_order": {"required": list(required)}, "output": outputs,
            "output_is_list": [False] * len(outputs), "output_name": outputs, "name": name, "display_name": name,
            "output_node": name in OUTPUT_CLASSES, "category": "x", "description": "",
            "python_module": "nodes"}  # fmt: skip


def graph(prefix: str = "fake", *, preview: bool = False, color: int = 0) -> dict[str, Any]:
    """EmptyImage -> ImageInvert -> SaveImage (and PreviewImage), in API format; the result is node 3."""
    nodes: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color},
              "_meta": {"title": "Canvas"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Invert"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix},
              "_meta": {"title": "Result"}},
    }  # fmt: skip
    if preview:
        nodes["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Preview"}}
    return nodes


MANIFEST = """
title = "Paint"
summary = "A workflow for the fake engine."
models = []
[[outputs]]
node = "Result"
kind = "image"
[parameters.prompt]
type = "string"
node = "Paint"
input = "text"
required = true
help = "What to paint."
[parameters.seed]
type = "seed"
node = "Paint"
input = "seed"
help = "The seed."
"""


def add_workflow(
    root: Path, name: str = "paint", manifest: str = MANIFEST, more: Mapping[str, Any] | None = None
) -> Path:
    """Make a workflow for the fake engine in ``root`` (for RYLA_WORKFLOWS), with ``more`` nodes; returns ``root``."""
    nodes = {
        "1": {"class_type": "FakePaint", "inputs": {"seed": 0, "text": ""}, "_meta": {"title": "Paint"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"},
              "_meta": {"title": "Result"}},
        **(more or {}),
    }  # fmt: skip
    (root / name).mkdir(parents=True)
    (root / name / "workflow.toml").write_text(manifest, encoding="utf-8")
    (root / name / "api.json").write_text(json.dumps(nodes), encoding="utf-8")
    return root
