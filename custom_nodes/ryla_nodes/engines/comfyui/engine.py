"""Our nodes' engine inside a real ComfyUI: thin calls into ``comfy.*``, weights as core's loaders give them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RylaError
from ...models.flux_files import FluxFiles
from ...models.folders import ModelFolders
from ...models.identity_files import IdentityFiles
from ..protocol import InstantIDSettings, SaveTarget, SpeedMode
from ..speed.report import OFF, WRAPPER, asked
from . import folders as comfy_folders

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...identity.adapter import Adapter
    from ...identity.face_file import FaceIdentity
    from ...loras.check import LoraResult

# ComfyUI's class of a model's weights -> the family in the terms of ``loras.inspect``.
_FAMILIES = {
    "Chroma": "chroma",
    "Flux": "flux",
    "Flux2": "flux2",
    "LongCatImage": "unknown",
    "QwenImage": "qwen-image",
    "SD3": "sd3",
    "SDXL": "sdxl",
    "SDXLRefiner": "sdxl",
    "WAN21": "wan",
}
_Z_IMAGE_WIDTH = 3840


class ComfyUIEngine:
    """``engines.protocol.Engine`` over ComfyUI's own functions."""

    name = "comfyui"

    def folders(self) -> ModelFolders:
        """ComfyUI's model folders, the volume's included."""
        return comfy_folders.current()

    def load_flux(self, files: FluxFiles, weight_dtype: str) -> tuple[Any, Any, Any]:
        """What UNETLoader, DualCLIPLoader and VAELoader (or CheckpointLoaderSimple) give for ``files``."""
        import comfy.sd

        from ... import settings
        from ..speed import keeping
        from . import loading

        options = _model_options(weight_dtype)
        if files.clip_l is None or files.t5xxl is None or files.vae is None:
            return _load_checkpoint(files.transformer, options)
        parts = (files.transformer, files.clip_l, files.t5xxl)
        # A conversion to 8 bits is done where core does it, in the CPU's memory.
        card = None if options else loading.card_for(*parts)
        kept = keeping.find(settings.load().volume, files.transformer, card) if card else None
        with loading.reading(card, *parts, kept=kept) as loads:
            model = loads.call(comfy.sd.load_diffusion_model, str(files.transformer), model_options=options)
            clip = loads.call(
                comfy.sd.load_clip,
                ckpt_paths=[str(files.clip_l), str(files.t5xxl)],
                embedding_directory=_embeddings(),
                clip_type=comfy.sd.CLIPType.FLUX,
                model_options=loads.text_options,
            )
            model, clip, vae = _in_place(model, clip, _load_vae(files.vae))
            loads.place(model, clip.patcher)
        if card is not None:
            keeping.came_from(model.model.diffusion_model, files.transformer)
        return model, clip, vae

    def default_flux(self) -> FluxFiles | None:
        """None: ComfyUI has no weights of its own."""
        return None

    def default_identity(self) -> IdentityFiles | None:
        """None, as with FLUX.1."""
        return None

    def load_checkpoint(self, path: Path) -> tuple[Any, Any, Any]:
        """What CheckpointLoaderSimple gives for ``path``."""
        return _load_checkpoint(path, {})

    def model_family(self, model: Any) -> str:
        """The family of a MODEL, ``unknown`` when it is none that LoRAs are told apart by."""
        import comfy.supported_models

        if isinstance(model.model.model_config, comfy.supported_models.SD15):
            return "sd15"
        if type(model.model).__name__ == "Lumina2":
            return "z-image" if model.model.model_config.unet_config.get("dim") == _Z_IMAGE_WIDTH else "lumina2"
        names = (base.__name__ for base in type(model.model).__mro__)
        return next((_FAMILIES[name] for name in names if name in _FAMILIES), "unknown")

    def load_control_net(self, path: Path) -> Any:
        """What ControlNetLoader gives for ``path``. Raises ``wrong_controlnet``."""
        from . import instantid

        return instantid.load_control_net(path)

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
        from . import instantid

        return instantid.apply(model, positive, negative, control_net, adapter, face, settings)

    def apply_lora(self, model: Any, clip: Any | None, path: Path, strength: float, clip_strength: float) -> LoraResult:
        """What core's LoraLoader gives for ``path``, and how much of the file matched."""
        from . import lora

        return lora.apply(model, clip, path, strength, clip_strength)

    def accelerate(self, model: Any, mode: SpeedMode) -> tuple[Any, str]:
        """A clone whose blocks run compiled while it samples; see ``speed.accelerate``."""
        if mode == "off" and not any(model.get_wrappers(kind, WRAPPER) for kind in ("apply_model", "diffusion_model")):
            return model, OFF  # Of what only a mode needs of ComfyUI, nothing may keep a model as it is from running.
        from . import speed

        return speed.accelerate(model, mode)

    def expect(self, prompt: Any) -> None:
        """Make the compiler ready for the modes of ``speed`` in ``prompt``."""
        modes = asked(prompt)
        if modes:
            from comfy.model_management import get_torch_device

            from ..speed import ahead

            ahead.begin(modes, get_torch_device)

    def save_target(self, prefix: str, width: int, height: int) -> SaveTarget:
        """Core SaveImage's folder, name and counter for ``prefix``."""
        import folder_paths
        from comfy.cli_args import args

        root = Path(folder_paths.get_output_directory())
        if not (root / prefix).resolve().is_relative_to(root.resolve()):
            raise RylaError("invalid_parameter", f"The prefix {prefix!r} points outside the output folder {root}.")
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, str(root), width, height)
        return SaveTarget(Path(folder), name, counter, subfolder, metadata=not args.disable_metadata)

    def preview(self, pictures: Iterable[NDArray[np.uint8]]) -> list[dict[str, str]]:
        """What core's PreviewImage does, for pictures of different sizes."""
        import torch
        from comfy_api.latest import ui

        batches = (torch.from_numpy(picture).float().div(255)[None] for picture in pictures)
        return [dict(saved) for batch in batches for saved in ui.PreviewImage(batch).as_dict()["images"]]

    def check_interrupt(self) -> None:
        """Raise ComfyUI's InterruptProcessingException when the job was cancelled."""
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()


def _model_options(weight_dtype: str) -> dict[str, Any]:
    import torch

    if weight_dtype == "default":
        return {}
    dtype = torch.float8_e5m2 if weight_dtype == "fp8_e5m2" else torch.float8_e4m3fn
    return {"dtype": dtype, **({"fp8_optimizations": True} if weight_dtype == "fp8_e4m3fn_fast" else {})}


def _embeddings() -> list[str]:
    import folder_paths

    return list(folder_paths.get_folder_paths("embeddings"))


def _load_checkpoint(path: Path, options: dict[str, Any]) -> tuple[Any, Any, Any]:
    import comfy.sd

    from . import loading

    with loading.reading(None if options else loading.card_for(path), path) as loads:
        model, clip, vae, *_ = loads.call(
            comfy.sd.load_checkpoint_guess_config,
            str(path),
            output_vae=True,
            output_clip=True,
            embedding_directory=_embeddings(),
            model_options=options,
            te_model_options=loads.text_options,
        )
        model, clip, vae = _in_place(model, clip, vae)
        loads.place(model, clip.patcher, vae.patcher)
    return model, clip, vae


def _in_place(model: Any, clip: Any, vae: Any) -> tuple[Any, Any, Any]:
    """With patchers whose LoRAs are changed in place, and a CLIP that keeps what it encodes."""
    from comfy.patcher_extension import CallbacksMP

    from . import text
    from .patcher import in_place

    clip = text.keeping(clip.clone())
    clip.patcher = in_place(clip.patcher)
    model = in_place(model)
    model.add_callback_with_key(CallbacksMP.ON_DETACH, "ryla_loader", _let_go)
    return model, clip, vae


def _let_go(patcher: Any, unpatch_all: bool = True) -> None:
    """Let the 8-bit weights go, too: ComfyUI unloads by this patcher when the faster clone is no more."""
    speed = sys.modules.get(f"{__package__}.speed")
    if speed is not None:
        speed.release(patcher, unpatch_all)


def _load_vae(path: Path) -> Any:
    import comfy.sd
    import comfy.utils

    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    reload = getattr(comfy.sd, "load_vae_patcher", None)
    if reload is not None:  # Later ComfyUIs place copies on further GPUs from this.
        vae.patcher.cached_patcher_init = (reload, (str(path), metadata, None))
    return vae
