"""What a LoRA file is, from its safetensors header and its sidecar alone: no weight is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import RylaError
from ..files import PICKLE_SUFFIXES
from ..models.headers import Header, read_header
from ..models.identify import FileKind, identify
from . import families, ids, keys, metadata, sidecar

_ORDER = ("model", "clip_l", "clip_g", "t5xxl", "text_encoder")


@dataclass(frozen=True)
class LoraInfo:
    """One LoRA file.

    ``family`` is a name of ``families.FAMILIES``. ``format`` is the naming scheme: kohya, diffusers, peft, comfyui,
    ai-toolkit, bfl-control, xlabs, onetrainer or simpletuner. ``algorithms`` are LyCORIS' names: lora, locon, loha,
    lokr, oft, glora, full, norm, ia3; dora besides. ``rank`` is ``(lowest, highest)``, None without a low-rank
    product. ``alpha`` is what the metadata says, else the rank where no key scales the product, else None.
    ``components`` are the patched ones: model, clip_l, clip_g, t5xxl, text_encoder. ``trigger_source`` names the
    sidecar or the metadata key.
    """

    path: Path
    size: int
    family: str
    format: str
    algorithms: tuple[str, ...]
    rank: tuple[int, int] | None
    alpha: float | None
    components: tuple[str, ...]
    modules: int
    targets: tuple[str, ...]
    dtype: str
    trigger_word: str | None
    trigger_source: str | None
    base_model: str | None
    tool: str | None

    @property
    def patches_model(self) -> bool:
        """False for a LoRA of text encoders only."""
        return "model" in self.components

    @property
    def rank_text(self) -> str:
        """ "16", "8-64", or "full"."""
        if self.rank is None:
            return "full"
        low, high = self.rank
        return str(low) if low == high else f"{low}-{high}"

    @property
    def kind(self) -> str:
        """ "kohya lora, rank 16", "kohya full"."""
        rank = f", rank {self.rank_text}" if self.rank else ""
        return f"{self.format} {'+'.join(self.algorithms)}{rank}"

    def as_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"path": str(self.path)}


def inspect(path: Path) -> LoraInfo:
    """Read a LoRA's header and sidecar; answers are kept until the file or its sidecar changes.

    Raises:
        RylaError: ``lora_pickle``, ``lora_vanished``, ``empty_file``, ``truncated_file``, ``not_safetensors``,
            ``unreadable_file``, ``not_a_lora`` (saying what it is), ``invalid_sidecar``.
    """
    if path.name.casefold().endswith(PICKLE_SUFFIXES):
        raise ids.pickle_refused(str(path))
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise RylaError("lora_vanished", f"{path} is not there (any more).", path=path) from error
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    return _with_sidecar(_from_header(path, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=20_000)
def _from_header(path: Path, size: int, mtime_ns: int) -> LoraInfo:
    try:
        header = read_header(path)
    except RylaError as error:
        error.hint = "Get the file again, then: ryla loras add FILE --id ID --force"
        raise
    modules = list(keys.modules(header.tensors).values())
    if not modules:
        raise _not_a_lora(header)
    return _info(path, size, header, modules)


def _info(path: Path, size: int, header: Header, modules: list[keys.Module]) -> LoraInfo:
    told = metadata.trigger_word(header.metadata)
    base = metadata.base_model(header.metadata)
    family = families.from_modules(modules)
    ranks = [module.rank for module in modules if module.rank is not None]
    rank = (min(ranks), max(ranks)) if ranks else None
    components = {module.component for module in modules}
    return LoraInfo(
        path=path,
        size=size,
        family=families.from_text(base, header.metadata.get("ss_base_model_version"))
        if family == "unknown"
        else family,
        format=_format(header, modules),
        algorithms=tuple(sorted(set().union(*(module.algorithms for module in modules)))),
        rank=rank,
        alpha=_alpha(header, modules, rank),
        components=tuple(name for name in _ORDER if name in components),
        modules=len(modules),
        targets=keys.patterns(modules),
        dtype=Counter(dtype for dtype, _ in header.tensors.values()).most_common(1)[0][0],
        trigger_word=told[0] if told else None,
        trigger_source=f"metadata {told[1]}" if told else None,
        base_model=base,
        tool=metadata.tool(header.metadata),
    )


def _format(header: Header, modules: list[keys.Module]) -> str:
    if keys.is_control(header.tensors):
        return "bfl-control"
    scheme = Counter(module.scheme for module in modules).most_common(1)[0][0]
    if metadata.tool(header.metadata) == "ai-toolkit" and scheme in ("diffusers", "comfyui"):
        return "ai-toolkit"
    return "peft" if scheme == "bare" else scheme


def _alpha(header: Header, modules: list[keys.Module], rank: tuple[int, int] | None) -> float | None:
    told = metadata.alpha(header.metadata)
    if told is not None:
        return told
    scaled = any("alpha" in module.tensors for module in modules)
    return float(rank[0]) if rank and rank[0] == rank[1] and not scaled else None


def _with_sidecar(info: LoraInfo) -> LoraInfo:
    beside = sidecar.read(info.path)
    if beside is None:
        return info
    changes: dict[str, Any] = {}
    if beside.trigger_word:
        changes |= {"trigger_word": beside.trigger_word, "trigger_source": beside.path.name}
    if beside.base_model:
        changes |= {"base_model": beside.base_model}
    return LoraInfo(**({field.name: getattr(info, field.name) for field in fields(info)} | changes))


def _not_a_lora(header: Header) -> RylaError:
    kind = identify(header)
    what = "a Control-LoRA, which is a ControlNet" if "lora_controlnet" in header.tensors else kind.description
    if kind in (FileKind.UNKNOWN, FileKind.LORA) and "lora_controlnet" not in header.tensors:
        what = f"unknown ({len(header.tensors)} tensors, such as {', '.join(list(header.tensors)[:3]) or 'none'})"
    return RylaError("not_a_lora", f"{header.path} holds no LoRA: it is {what}.", path=header.path)
