"""FLUX.1 Dev: loaded from whatever files of it are there, and run faster."""

from __future__ import annotations

from typing import Any, ClassVar

from ..engines.protocol import SPEED_MODES, WEIGHT_DTYPES, SpeedMode, current_engine
from ..engines.schema import aliases, io
from ..files import file_state, fingerprint
from ..models import flux_files, shipped
from ..models.flux_files import FluxFiles
from . import reports, sockets


class FluxLoader(io.ComfyNode):
    """The split files (transformer, CLIP-L, T5-XXL, VAE) or an all-in-one checkpoint."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FluxLoader",
            display_name="Load FLUX.1 Dev",
            category="RYLA/loaders",
            description="Finds and loads FLUX.1 Dev in one step: transformer, CLIP-L, T5-XXL and VAE from their "
            "folders, or an all-in-one checkpoint. Says what is missing, where it looked, and how to get it.",
            **aliases("flux", "checkpoint", "diffusion model"),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=flux_files.choices(current_engine().folders()),
                    default=flux_files.AUTO,
                    tooltip="auto takes flux1-dev.safetensors with its text encoders and VAE, else an all-in-one "
                    "checkpoint. Or name a file of diffusion_models or checkpoints.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default=WEIGHT_DTYPES[0],
                    tooltip="default keeps the file's precision. The fp8 types halve the transformer's memory and lose "
                    "some detail; fast also multiplies in fp8 on newer GPUs.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=list(flux_files.TEXT_ENCODERS),
                    default=flux_files.AUTO,
                    tooltip="auto takes the most precise T5-XXL that is there. The fp8 files need half the memory.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The FLUX.1 Dev transformer."),
                io.Clip.Output(display_name="CLIP", tooltip="CLIP-L and T5-XXL."),
                io.Vae.Output(display_name="VAE", tooltip="The 16-channel VAE."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None, text_encoder: str | None = None) -> bool:
        """Refuse before the job is queued, by raising: a message that is returned is told once an input."""
        if model is not None:  # Linked: known when the job runs.
            sockets.require_choice("text_encoder", text_encoder, flux_files.TEXT_ENCODERS)
            _locate(model, text_encoder or flux_files.AUTO)
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str, weight_dtype: str, text_encoder: str) -> str:
        """Load again when a file was replaced."""
        files = _locate(model, text_encoder)
        parts = (files.transformer, files.clip_l, files.t5xxl, files.vae)
        return fingerprint([file_state(path) for path in parts if path is not None])

    @classmethod
    def execute(cls, model: str, weight_dtype: str, text_encoder: str) -> io.NodeOutput:
        files = _locate(model, text_encoder)
        loaded = current_engine().load_flux(files, weight_dtype)
        return io.NodeOutput(*loaded, ui=reports.text(*_took(files)))


def _took(files: FluxFiles) -> list[str]:
    """A line for each file that was loaded."""
    parts = {"CLIP-L": files.clip_l, "T5-XXL": files.t5xxl, "VAE": files.vae}
    split = [reports.took(name, path) for name, path in parts.items() if path is not None]
    return [reports.took("transformer" if split else "checkpoint", files.transformer), *split]


def _locate(model: str, text_encoder: str) -> FluxFiles:
    """The files to load; the engine's own ones are checked here, so that a damaged package is told before the job."""
    engine = current_engine()
    own = engine.default_flux()
    found = flux_files.locate(engine.folders(), model, text_encoder, own)
    if found == own:
        shipped.require()
    return found


class FluxSpeed(io.ComfyNode):
    """Model in, faster model out; where a mode cannot be had, the model as it is and a line that says why."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FluxSpeed",
            display_name="FLUX Speed",
            category="RYLA/loaders",
            description="Runs FLUX.1 faster on NVIDIA GPUs, and SDXL with its ControlNets. Goes between the LoRA (of "
            "SDXL: the identity) and the sampler. FLUX.1's first picture of a mode waits for its compilation.",
            **aliases("flux", "sdxl", "speed", "compile", "fp8"),
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 model with its LoRA, or an SDXL one."),
                io.Combo.Input(
                    "mode",
                    options=list(SPEED_MODES),
                    default=SPEED_MODES[0],
                    tooltip="off: as it is. exact: the same mathematics, compiled. fast: matrices in 8 bits as well, "
                    "which changes the picture a little. SDXL paints the same in all modes.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model to sample with.")],
        )

    @classmethod
    def execute(cls, model: Any, mode: SpeedMode) -> io.NodeOutput:
        faster, report = current_engine().accelerate(model, mode)
        return io.NodeOutput(faster) if mode == "off" else io.NodeOutput(faster, ui=reports.text(report))
