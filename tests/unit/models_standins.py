"""Small files that pass for the real ones by their keys and shapes, and a catalogue override with their hashes."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import prod
from unittest import mock

from ryla_nodes.models.catalogue import ModelEntry

Shapes = Mapping[str, Sequence[int]]

FLUX: Shapes = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (128,),
    "img_in.weight": (256, 64),
    "guidance_in.in_layer.weight": (256, 256),
    "vector_in.in_layer.weight": (256, 64),
}
CLIP_L: Shapes = {"text_model.encoder.layers.0.mlp.fc1.weight": (64, 16)}
T5: Shapes = {
    "encoder.block.0.layer.1.DenseReluDense.wi_1.weight": (64, 16),
    "encoder.block.0.layer.0.SelfAttention.k.weight": (16, 16),
}


def vae(channels: int) -> Shapes:
    """A VAE's telling tensors."""
    return {"decoder.conv_in.weight": (8, channels, 3, 3), "encoder.conv_in.weight": (8, 3, 3, 3)}


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    """``shapes`` with ``prefix`` before each key."""
    return {f"{prefix}{key}": shape for key, shape in shapes.items()}


ALL_IN_ONE: Shapes = {
    **prefixed("model.diffusion_model.", FLUX),
    **prefixed("text_encoders.clip_l.transformer.", CLIP_L),
    **prefixed("text_encoders.t5xxl.transformer.", T5),
    **prefixed("vae.", vae(16)),
}
SDXL: Shapes = {
    "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
    "model.diffusion_model.label_emb.0.0.weight": (8, 2816),
    "conditioner.embedders.1.model.ln_final.weight": (8,),
    **prefixed("first_stage_model.", vae(4)),
}
CONTROLNET: Shapes = {
    "controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3),
    "add_embedding.linear_1.weight": (8, 2816),
}
ADAPTER: Shapes = {
    "image_proj.latents": (1, 16, 8),
    "image_proj.proj_in.weight": (8, 512),
    "ip_adapter.1.to_k_ip.weight": (8, 16),
}
SHAPES: Mapping[str, Shapes] = {
    "flux_transformer": FLUX,
    "flux_all_in_one": ALL_IN_ONE,
    "clip_l": CLIP_L,
    "t5xxl": T5,
    "vae_flux": vae(16),
    "sdxl_checkpoint": SDXL,
    "controlnet_sdxl_instantid": CONTROLNET,
    "instantid_adapter": ADAPTER,
}


def safetensors(shapes: Shapes, fill: bytes = b"", metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of zeros in F16; ``fill`` goes into one more tensor and makes files differ."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key, shape in shapes.items():
        size = 2 * prod(shape)
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header["~fill"] = {"dtype": "U8", "shape": [len(fill)], "data_offsets": [end, end + len(fill)]}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(end) + fill


def torch_zip(nested: Mapping[str, Shapes], fill: bytes = b"") -> bytes:
    """What ``torch.save`` writes for nested dictionaries of fp16 tensors, made without torch."""
    storage = type("HalfStorage", (), {"__module__": "torch"})

    def rebuild(*_: object) -> None:
        """Only its name is pickled."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")
    utils._rebuild_tensor_v2, torch.HalfStorage, torch._utils = rebuild, storage, utils  # type: ignore[attr-defined]

    class Stored:
        pass

    class Tensor:
        def __init__(self, shape: Sequence[int]) -> None:
            self.shape = tuple(shape)

        def __reduce__(self) -> tuple[object, ...]:
            return rebuild, (Stored(), 0, self.shape, (1,) * len(self.shape), False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("storage", storage, "0", "cpu", 8) if isinstance(obj, Stored) else None

    buffer, archive = BytesIO(), BytesIO()
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        tensors = {name: {key: Tensor(shape) for key, shape in shapes.items()} for name, shapes in nested.items()}
        Pickler(buffer, 2).dump(tensors)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("archive/data.pkl", buffer.getvalue())
        opened.writestr("archive/data/0", fill or bytes(16))
    return archive.getvalue()


def adapter_bin(fill: bytes = b"") -> bytes:
    """An ``ip-adapter.bin``."""
    parts: dict[str, dict[str, Sequence[int]]] = {"image_proj": {}, "ip_adapter": {}}
    for key, shape in ADAPTER.items():
        part, _, name = key.partition(".")
        parts[part][name] = shape
    return torch_zip(parts, fill)


def onnx(fill: bytes = b"") -> bytes:
    """A ModelProto with an IR version and a graph of ``fill``."""
    length, size = bytearray(), len(fill)
    while True:
        length.append(size & 0x7F | (0x80 if size > 0x7F else 0))
        size >>= 7
        if not size:
            return b"\x08\x08\x3a" + bytes(length) + fill


def content(entry: ModelEntry, size: int = 0) -> bytes:
    """The stand-in of a catalogue file, padded to about ``size`` bytes, different for each id."""
    fill = hashlib.sha256(entry.id.encode()).digest() * (size // 32 + 1)
    if entry.kind == "instantid_adapter":
        return adapter_bin(fill)
    if entry.kind in SHAPES:
        # The same VAE from two repositories has the same bytes.
        return safetensors(SHAPES[entry.kind], bytes(size) if entry.kind == "vae_flux" else fill)
    if entry.kind == "onnx":
        return onnx(fill)
    return json.dumps({"id": entry.id}).encode()


def override(contents: Mapping[str, bytes], archives: Mapping[str, bytes]) -> str:
    """A ``RYLA_CATALOGUE`` file that gives each id the size and hash of its stand-in."""
    tables = [("model", key, data) for key, data in contents.items()]
    tables += [("archive", key, data) for key, data in archives.items()]
    return "\n".join(
        f'[[{table}]]\nid = "{key}"\nsize = {len(data)}\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n'
        for table, key, data in tables
    )
