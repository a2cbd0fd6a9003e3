"""What a LoRA file is, from its safetensors header and its sidecar alone: no weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import RylaError
from ..files import PICKLE_SUFFIXES
from ..models.headers import Header, read_header, read_scalars
from ..models.identify import FileKind, describe, identify, quantisation
from . import families, ids, keys, layouts, metadata, sidecar, trigger
from .families import Claim
from .metadata import Scale
from .sidecar import Sidecar

_SAMPLED_ALPHAS = 16
_BASE_FIELDS = (
    "base_model",
    "baseModel",
    "BaseModel",
    "sd version",
    "base_model_name_or_path",
    "modelspec.architecture",
)
_ORDER = ("model", "clip_l", "clip_g", "t5xxl", "text_encoder")


@dataclass(frozen=True)
class LoraInfo:
    """One LoRA file.

    ``family`` is a name of ``families.FAMILIES``, the likeliest of ``possible_families``; ``family_source`` says what
    decided: "layers", a sidecar or metadata key, or "" for a guess. ``format`` is the naming scheme (see
    ``layouts.name``). ``algorithms`` are LyCORIS' and PEFT's names (see ``keys.Module``). ``rank`` is ``(lowest,
    highest)``, None without a low-rank product. ``alpha`` is what the file's keys say, else what is recorded about it,
    else the rank where no key scales the product, else None. ``components`` are the patched ones: model, clip_l,
    clip_g, t5xxl, text_encoder. ``trigger_source`` names the sidecar or the metadata key. ``notes`` are what is known
    of the file and will not be applied, or does not go together. ``foreign`` says of a layout that ComfyUI reads
    nothing of what it is, ``advice`` what to do.
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
    possible_families: tuple[str, ...] = ()
    family_source: str = ""
    notes: tuple[str, ...] = ()
    foreign: str = ""
    advice: str = ""

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
    """Read a LoRA's header and what lies beside it; answers are kept until one of these changes.

    Raises:
        RylaError: ``lora_pickle``, ``lora_vanished``, ``empty_file``, ``truncated_file``, ``not_safetensors``,
            ``unreadable_file``, ``not_a_lora``, ``invalid_sidecar``.
    """
    if path.name.casefold().endswith(PICKLE_SUFFIXES):
        raise ids.pickle_refused(str(path))
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise RylaError("lora_vanished", f"{path} is not there (any more).", path=path) from error
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    contents = _contents(path, status.st_size, status.st_mtime_ns)
    return _info(path, status.st_size, contents, sidecar.read(path))


@dataclass(frozen=True)
class _Contents:
    """What the header says: the layers, and the alphas that are in the file's keys."""

    header: Header
    modules: tuple[keys.Module, ...]
    alphas: frozenset[float]


@lru_cache(maxsize=4_000)
def _contents(path: Path, _size: int, _mtime_ns: int) -> _Contents:
    try:
        header = read_header(path)
    except RylaError as error:
        error.hint = "Get the file again, then: ryla loras add FILE --id ID --force"
        raise
    modules = tuple(keys.modules(header.tensors).values())
    if not modules or quantisation(header) is not None:  # SVDQuant's models have low-rank parts, too.
        raise _not_a_lora(header)
    return _Contents(header, modules, _alphas(header, modules))


def _alphas(header: Header, modules: tuple[keys.Module, ...]) -> frozenset[float]:
    """The values of the file's alpha keys, of a sample of them: each is a read of its own."""
    names = [module.keys["alpha"] for module in modules if "alpha" in module.keys]
    return frozenset(read_scalars(header, names[:: len(names) // _SAMPLED_ALPHAS + 1]).values())


def _info(path: Path, size: int, contents: _Contents, beside: tuple[Sidecar, ...]) -> LoraInfo:
    header, modules = contents.header, contents.modules
    told = trigger.find(header.metadata, beside, header.tensors)
    base = next(filter(None, map(_base, beside)), None)
    verdict = families.decide(modules, [*_claims(beside), *metadata.claims(header.metadata)])
    ranks = [module.rank for module in modules if module.rank is not None]
    rank = (min(ranks), max(ranks)) if ranks else None
    scales = [*_configured(beside), *metadata.scales(header.metadata)]
    components = {module.component for module in modules}
    layout = layouts.name(header, modules)
    foreign = layouts.foreign(header.tensors, modules)
    return LoraInfo(
        path=path,
        size=size,
        family=verdict.family,
        format=layout,
        algorithms=tuple(sorted(set().union(*(module.algorithms for module in modules)))),
        rank=rank,
        alpha=_alpha(contents.alphas, scales, rank),
        components=tuple(name for name in _ORDER if name in components),
        modules=len(modules),
        targets=keys.patterns(modules),
        dtype=Counter(dtype for dtype, _ in header.tensors.values()).most_common(1)[0][0],
        trigger_word=told[0] if told else None,
        trigger_source=told[1] if told else None,
        base_model=base or metadata.base_model(header.metadata),
        tool=metadata.tool(header.metadata),
        possible_families=verdict.possible,
        family_source=verdict.source,
        notes=(*verdict.remarks, *layouts.not_applied(header.tensors, modules, contents.alphas, scales)),
        foreign=foreign[0] if foreign else "",
        advice=foreign[1] if foreign else "",
    )


def _base(told: Sidecar) -> str:
    """The base model that a sidecar names."""
    values = (told.fields.get(name) for name in _BASE_FIELDS)
    return next((metadata.line(value) for value in values if isinstance(value, str) and value.strip()), "")


def _claims(beside: tuple[Sidecar, ...]) -> Iterator[Claim]:
    for told in beside:
        if text := _base(told):
            yield Claim(told.path.name, text)


def _configured(beside: tuple[Sidecar, ...]) -> Iterator[Scale]:
    """The scale of PEFT's own configuration."""
    for told in beside:
        if told.path.name == sidecar.ADAPTER_CONFIG:
            yield metadata.scale_of(told.path.name, told.fields)


def _alpha(alphas: frozenset[float], scales: list[Scale], rank: tuple[int, int] | None) -> float | None:
    if alphas:
        return next(iter(alphas)) if len(alphas) == 1 else None
    recorded = next((scale.alpha for scale in scales if scale.alpha is not None), None)
    if recorded is not None:
        return recorded
    return float(rank[0]) if rank and rank[0] == rank[1] else None


def _not_a_lora(header: Header) -> RylaError:
    kind = identify(header)
    what = describe(header.path, kind)
    what = "a Control-LoRA, which is a ControlNet" if "lora_controlnet" in header.tensors else what
    if kind in (FileKind.UNKNOWN, FileKind.LORA) and "lora_controlnet" not in header.tensors:
        what = f"unknown ({len(header.tensors)} tensors, such as {', '.join(list(header.tensors)[:3]) or 'none'})"
    return RylaError("not_a_lora", f"{header.path} holds no LoRA: it is {what}.", path=header.path)
