"""InstantID's adapter file: checked, read only while identity tokens are computed, and let go of again.

The adapter is 1.69 GB, but the identity tokens never change while a picture is sampled. So its work is done once: 16
tokens, and their keys and values for all 70 layers (10.7 MB in half precision for both halves of the guidance).
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import RylaError
from ..files import sha256
from ..models import catalogue
from .attention import LAYERS, LayerKV, adapter_name
from .face_file import FaceIdentity

CATALOGUE_ID = "instantid-adapter"
_CACHED_FACES = 8
_EMBEDDING_WIDTH = 512
_HEAD_DIM = 64


@dataclass(frozen=True)
class Identity:
    """What sampling needs of one face: tokens (1, 16, 2048) in float32, and keys and values per layer of ``LAYERS``."""

    cond: Tensor
    uncond: Tensor
    layers: tuple[LayerKV, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        parts = (t for kv in self.layers for t in (kv.cond_k, kv.cond_v, kv.uncond_k, kv.uncond_v))
        return sum(t.numel() * t.element_size() for t in parts)


class Adapter:
    """An adapter file. Holds no weights between calls; ``runs`` counts how often they were read for a face."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = 0
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, float, torch.dtype], Identity] = OrderedDict()
        with _opened(path) as weights:
            self.widths = tuple(weights[1][adapter_name(i, "k")].shape[0] for i in range(len(LAYERS)))
            self.token_width = weights[0]["proj_out.weight"].shape[0]

    def identity(self, face: FaceIdentity, noise: float, dtype: torch.dtype) -> Identity:
        """Tokens, keys and values for ``face``, cached by its vectors.

        Args:
            noise: the unconditional half is made from ``noise`` x U[0, 1) instead of zeros; drawn from a private
                generator that is seeded by the face, so that a picture can be made again.
            dtype: of keys and values.
        """
        key = (face.digest, noise, dtype)
        with self._lock:
            if key not in self._cache:
                self.runs += 1
                self._cache[key] = self._compute(face, noise, dtype)
                while len(self._cache) > _CACHED_FACES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]

    @torch.inference_mode()
    def _compute(self, face: FaceIdentity, noise: float, dtype: torch.dtype) -> Identity:
        vectors = torch.from_numpy(face.vectors.copy())
        with _opened(self.path) as (image_proj, ip_adapter):
            tokens = [resample(image_proj, v).clone() for v in (vectors, _unconditional(vectors, noise))]
            layers = []
            for position in range(len(LAYERS)):
                k, v = (ip_adapter[adapter_name(position, part)].float() for part in "kv")
                parts = [functional.linear(t, w).to(dtype) for t in tokens for w in (k, v)]
                layers.append(LayerKV(*parts))
        return Identity(tokens[0], tokens[1], tuple(layers))


def _unconditional(vectors: Tensor, noise: float) -> Tensor:
    """The embedding of nobody: zeros, or noise from the face's own seed."""
    if noise == 0:
        return torch.zeros_like(vectors)
    generator = torch.Generator().manual_seed(int(vectors.sum().item()) % 1_000_000_007)
    return noise * torch.rand(vectors.shape, generator=generator)


def resample(weights: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
    """InstantID's Resampler: identity tokens (B, queries, output), float32, for raw embeddings ``vectors`` (B, n, 512).

    A Perceiver resampler whose learned queries attend over (embeddings, queries). ``weights`` are the adapter's
    ``image_proj`` under their published names; the published dimensions are dim 1280, depth 4, 20 heads of 64, 16
    queries, input 512, output 2048.
    """

    def weight(name: str) -> Tensor:
        return weights[name].float()

    x = functional.linear(vectors.float(), weight("proj_in.weight"), weight("proj_in.bias"))
    latents = weight("latents").expand(len(x), -1, -1)
    for layer in range(depth(weights)):
        latents = latents + _attend(weights, f"layers.{layer}.0", x, latents)
        latents = latents + _feed_forward(weights, f"layers.{layer}.1", latents)
    tokens = functional.linear(latents, weight("proj_out.weight"), weight("proj_out.bias"))
    return _norm(weights, "norm_out", tokens)


def depth(weights: Mapping[str, Tensor]) -> int:
    """Number of layers."""
    return sum(name.endswith(".0.to_q.weight") for name in weights)


def _attend(weights: Mapping[str, Tensor], name: str, x: Tensor, latents: Tensor) -> Tensor:
    """Queries from the latents; keys and values from the embeddings and the latents. Softmax in float32."""
    latents = _norm(weights, f"{name}.norm2", latents)
    source = torch.cat((_norm(weights, f"{name}.norm1", x), latents), dim=1)
    q = functional.linear(latents, weights[f"{name}.to_q.weight"].float())
    k, v = functional.linear(source, weights[f"{name}.to_kv.weight"].float()).chunk(2, dim=-1)
    q, k, v = (part.reshape(*part.shape[:2], -1, _HEAD_DIM).transpose(1, 2) for part in (q, k, v))
    # The reference scales q and k by dim ** -1/4 each, which is the usual dim ** -1/2 on their product.
    out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return functional.linear(out, weights[f"{name}.to_out.weight"].float())


def _feed_forward(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = functional.linear(_norm(weights, f"{name}.0", x), weights[f"{name}.1.weight"].float())
    return functional.linear(functional.gelu(hidden), weights[f"{name}.3.weight"].float())


def _norm(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    scale = weights[f"{name}.weight"].float()
    return functional.layer_norm(x, scale.shape, scale, weights[f"{name}.bias"].float())


class _opened:
    """Context of (image_proj, ip_adapter); the weights are memory-mapped, and gone at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        self._weights = _read(self._path)
        return self._weights

    def __exit__(self, *_: object) -> None:
        del self._weights


def _read(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    _verify(path)
    groups = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    image_proj, ip_adapter = groups.get("image_proj"), groups.get("ip_adapter")
    problem = _problem(image_proj, ip_adapter)
    if problem or image_proj is None or ip_adapter is None:
        raise RylaError("wrong_adapter", f"{path} is not an InstantID adapter: {problem}.")
    return image_proj, ip_adapter


def _problem(image_proj: object, ip_adapter: object) -> str:
    """Why these are not InstantID's weights; empty when they are."""
    if not isinstance(image_proj, Mapping) or not isinstance(ip_adapter, Mapping) or not image_proj:
        return "it lacks image_proj or ip_adapter"
    if "latents" not in image_proj or "proj_in.weight" not in image_proj:
        return "its image_proj is not a Resampler (an IP-Adapter of another kind)"
    width = image_proj["proj_in.weight"].shape[1]
    if width != _EMBEDDING_WIDTH:
        return f"its Resampler takes vectors of {width}, a face embedding has {_EMBEDDING_WIDTH}"
    wanted = {adapter_name(i, part) for i in range(len(LAYERS)) for part in "kv"}
    if set(ip_adapter) != wanted:
        return f"it has {len(ip_adapter)} attention weights of other names than SDXL's {len(wanted)}"
    return ""


def _read_safetensors(path: Path) -> dict[str, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RylaError("unreadable_model", f"{path} cannot be read: {error}.") from error
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups


def _read_pickle(path: Path) -> dict[str, dict[str, Tensor]]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise RylaError("unreadable_model", f"{path} cannot be read as weights: {reason}.") from error
    return weights if isinstance(weights, dict) else {}


@lru_cache(maxsize=8)
def _digest(path: Path, _mtime_ns: int, _size: int) -> str:
    return sha256(path)


def _verify(path: Path) -> None:
    """A file of the published size has to be the published one."""
    entry = catalogue.load().get(CATALOGUE_ID)
    status = path.stat()
    if entry.sha256 is None or status.st_size != entry.size:
        return
    if _digest(path, status.st_mtime_ns, status.st_size) != entry.sha256:
        raise RylaError("hash_mismatch", f"{path} has the size of InstantID's ip-adapter.bin, but another sha256.")
