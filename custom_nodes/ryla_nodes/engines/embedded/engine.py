"""The embedded engine as our nodes see it. Imports torch when something is loaded, not before."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RylaError
from ...models import shipped
from ...models.flux_files import FluxFiles
from ...models.folders import ModelFolders
from ...models.headers import read_header
from ...models.identify import FileKind, identify
from ...models.identity_files import IdentityFiles
from ..protocol import WEIGHT_DTYPES, InstantIDSettings, SaveTarget, SpeedMode, current_engine
from ..speed.report import OFF, asked
from .execution.calls import check_interrupt
from .files import EngineFiles

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ...identity.adapter import Adapter
    from ...identity.face_file import FaceIdentity
    from ...loras.check import LoraResult
    from .inference.flux import FluxModel
    from .inference.text import FluxText
    from .inference.vae import PictureVae

# Where an all-in-one checkpoint keeps its parts.
_TRANSFORMER_PREFIX = "model.diffusion_model."
_CLIP_L_PREFIX = "text_encoders.clip_l.transformer."
_T5_PREFIX = "text_encoders.t5xxl.transformer."
_VAE_PREFIX = "vae."


@dataclass(frozen=True)
class EmbeddedEngine:
    """``engines.protocol.Engine`` of the embedded engine.

    ``home`` holds models of its own and the engine's input and output folders; ``model_folders`` those of real weights.
    """

    home: Path
    model_folders: ModelFolders
    name: str = "embedded"

    @property
    def files(self) -> EngineFiles:
        """The engine's own input, output and temp folders."""
        return EngineFiles(self.home)

    def folders(self) -> ModelFolders:
        """The folders of real weights, then the home's, then those of the models that ship with the package."""
        return self.model_folders.with_root(self.home / "models").merged(shipped.folders())

    def default_flux(self) -> FluxFiles:
        """The models that ship with the package, whether they are whole or not."""
        return FluxFiles(*map(shipped.path, shipped.FLUX))

    def default_identity(self) -> IdentityFiles:
        """The models that ship with the package, whether they are whole or not."""
        checkpoint, adapter, control_net = map(shipped.path, shipped.IDENTITY)
        return IdentityFiles(checkpoint, adapter, control_net, shipped.insightface())

    def load_flux(self, files: FluxFiles, weight_dtype: str) -> tuple[FluxModel, FluxText, PictureVae]:
        """Load FLUX.1 Dev's files, real or small.

        Raises:
            RylaError: ``invalid_parameter`` for another ``weight_dtype``, ``wrong_model_kind``, ``incomplete_weights``,
                ``unsupported_weights``, ``missing_tokenizer``, ``wrong_tokenizer``, and what
                ``models.headers.read_header`` raises.
        """
        if files.clip_l is None or files.t5xxl is None or files.vae is None:
            return self._load_all_in_one(files.transformer, weight_dtype)
        model = self.load_transformer(files.transformer, weight_dtype)
        return model, self.load_clip(files.clip_l, files.t5xxl), self.load_vae(files.vae)

    def load_checkpoint(self, path: Path) -> tuple[Any, Any, PictureVae]:
        """Load a checkpoint of Flux or SDXL; raises as ``load_flux``."""
        from .inference import weights

        if _require(path, FileKind.FLUX_ALL_IN_ONE, FileKind.SDXL_CHECKPOINT) is FileKind.SDXL_CHECKPOINT:
            from .inference import sdxl

            return sdxl.load_checkpoint(path, self.folders(), weights.best())
        return self._load_all_in_one(path, "default")

    def load_transformer(self, path: Path, weight_dtype: str = "default") -> FluxModel:
        """Load a transformer, alone in its file or from a checkpoint; raises as ``load_flux``."""
        from .inference import flux, weights

        if weight_dtype not in WEIGHT_DTYPES:
            choices = ", ".join(WEIGHT_DTYPES)
            raise RylaError("invalid_parameter", f"weight_dtype is {weight_dtype!r}, not one of {choices}.")
        kind = _require(path, FileKind.FLUX_TRANSFORMER, FileKind.FLUX_ALL_IN_ONE)
        file = weights.WeightFile.open(path)
        inside = kind is FileKind.FLUX_ALL_IN_ONE or f"{_TRANSFORMER_PREFIX}img_in.weight" in file
        return flux.load(file.part(_TRANSFORMER_PREFIX) if inside else file, weight_dtype, weights.best())

    def load_clip(self, clip_l: Path, t5xxl: Path, *, on_cpu: bool = False) -> FluxText:
        """Load the two text encoders, given in either order; raises as ``load_flux``."""
        from .inference import text, weights

        if _require(clip_l, FileKind.CLIP_L, FileKind.T5XXL) is FileKind.T5XXL:
            clip_l, t5xxl = t5xxl, clip_l
        _require(clip_l, FileKind.CLIP_L)
        _require(t5xxl, FileKind.T5XXL)
        folders, place = self.folders(), weights.cpu() if on_cpu else weights.best()
        return text.FluxText(
            text.load_clip_l(weights.WeightFile.open(clip_l), clip_l, folders, place),
            text.load_t5xxl(weights.WeightFile.open(t5xxl), t5xxl, folders, place),
        )

    def load_vae(self, path: Path) -> PictureVae:
        """Load a Flux VAE; raises as ``load_flux``."""
        from .inference import vae, weights

        _require(path, FileKind.VAE_FLUX)
        return vae.load(weights.WeightFile.open(path), weights.best())

    def _load_all_in_one(self, path: Path, weight_dtype: str) -> tuple[FluxModel, FluxText, PictureVae]:
        from .inference import text, vae, weights

        _require(path, FileKind.FLUX_ALL_IN_ONE)
        file, folders, place = weights.WeightFile.open(path), self.folders(), weights.best()
        clip_name, t5_name = (path.with_name(f"{path.stem}.{part}{path.suffix}") for part in ("clip_l", "t5xxl"))
        clip = text.FluxText(
            text.load_clip_l(file.part(_CLIP_L_PREFIX), clip_name, folders, place),
            text.load_t5xxl(file.part(_T5_PREFIX), t5_name, folders, place),
        )
        return self.load_transformer(path, weight_dtype), clip, vae.load(file.part(_VAE_PREFIX), place)

    def model_family(self, model: Any) -> str:
        """``flux`` or ``sdxl``."""
        return str(model.family)

    def apply_lora(
        self, model: FluxModel, clip: FluxText | None, path: Path, strength: float, clip_strength: float
    ) -> LoraResult:
        """Patch clones of ``model`` and ``clip``; see ``lora.apply``."""
        from .inference import lora

        return lora.apply(model, clip, path, strength, clip_strength)

    def expect(self, prompt: Any) -> None:
        """Make the compiler ready for the modes of ``speed`` in ``prompt``."""
        modes = asked(prompt)
        if modes:
            from ..speed import ahead

            ahead.begin(modes, _device)

    def accelerate(self, model: Any, mode: SpeedMode) -> tuple[Any, str]:
        """A clone whose blocks run compiled; see ``speed.accelerate``."""
        if mode == "off" and not getattr(model, "accelerated", False):
            return model, OFF
        from .inference import speed

        return speed.accelerate(model, mode)

    def load_control_net(self, path: Path) -> Any:
        """Load a ControlNet of SDXL in diffusers' format. Raises ``wrong_controlnet``."""
        from .inference import sdxl, weights

        return sdxl.load_control_net(path, weights.best())

    def apply_instantid(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        control_net: Any,
        adapter: Adapter,
        face: FaceIdentity,
        settings: InstantIDSettings,
    ) -> tuple[Any, Any, Any]:
        """Patch a clone of ``model``, and give the conditionings the ControlNet; see ``instantid.apply``."""
        from .inference import instantid

        return instantid.apply(model, positive, negative, control_net, adapter, face, settings)

    def save_target(self, prefix: str, width: int, height: int) -> SaveTarget:
        """Core SaveImage's folder, name and counter for ``prefix``, in the engine's output folder."""
        return self.files.save_target(prefix, width, height)

    def preview(self, pictures: Iterable[NDArray[np.uint8]]) -> list[dict[str, str]]:
        """None: no editor asks this engine."""
        return []

    def check_interrupt(self) -> None:
        """Raise ``Interrupted`` when the job was cancelled."""
        check_interrupt()

    def unload_models(self) -> None:
        """Give the memory of dropped models back to the device; the models themselves belong to whoever holds them."""
        torch = sys.modules.get("torch")
        gc.collect()
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def embedded_engine() -> EmbeddedEngine:
    """The engine that runs this code, typed for core nodes: they run in no other and ask more than the protocol has."""
    engine = current_engine()
    assert isinstance(engine, EmbeddedEngine)
    return engine


def _device() -> torch.device:
    from .inference import weights

    return weights.best().device


def _require(path: Path, *kinds: FileKind) -> FileKind:
    kind = identify(read_header(path))
    if kind not in kinds:
        wanted = " or ".join(wanted.description for wanted in kinds)
        raise RylaError("wrong_model_kind", f"{path} is {kind.description}, not {wanted}.", path=path, kind=kind.value)
    return kind
