"""ComfyUI's loaders of models, LoRAs and ControlNets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....errors import RylaError
from ...protocol import WEIGHT_DTYPES
from ...schema import io
from ..engine import embedded_engine

STRENGTH: dict[str, Any] = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}


class UNETLoader(io.ComfyNode):
    """A transformer alone in its file."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UNETLoader",
            display_name="Load Diffusion Model",
            category="advanced/loaders",
            inputs=[
                io.Combo.Input("unet_name", options=_files("diffusion_models")),
                io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES)),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str) -> io.NodeOutput:
        return io.NodeOutput(embedded_engine().load_transformer(_path("diffusion_models", unet_name), weight_dtype))


class DualCLIPLoader(io.ComfyNode):
    """Flux's two text encoders, in either order."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DualCLIPLoader",
            display_name="DualCLIPLoader",
            category="advanced/loaders",
            description="flux: clip-l, t5",
            inputs=[
                io.Combo.Input("clip_name1", options=_files("text_encoders")),
                io.Combo.Input("clip_name2", options=_files("text_encoders")),
                io.Combo.Input("type", options=["flux"]),
                io.Combo.Input("device", options=["default", "cpu"], optional=True),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip_name1: str, clip_name2: str, type: str, device: str = "default") -> io.NodeOutput:  # noqa: A002
        paths = (_path("text_encoders", name) for name in (clip_name1, clip_name2))
        return io.NodeOutput(embedded_engine().load_clip(*paths, on_cpu=device == "cpu"))


class VAELoader(io.ComfyNode):
    """A VAE alone in its file."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAELoader",
            display_name="Load VAE",
            category="loaders",
            inputs=[io.Combo.Input("vae_name", options=_files("vae"))],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(embedded_engine().load_vae(_path("vae", vae_name)))


class CheckpointLoaderSimple(io.ComfyNode):
    """A transformer, text encoders and VAE in one file."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CheckpointLoaderSimple",
            display_name="Load Checkpoint",
            category="loaders",
            description="Loads a diffusion model checkpoint: a model with its text encoders and its VAE.",
            inputs=[io.Combo.Input("ckpt_name", options=_files("checkpoints"), tooltip="The file to load.")],
            outputs=[
                io.Model.Output(tooltip="What denoises latents."),
                io.Clip.Output(tooltip="What encodes prompts."),
                io.Vae.Output(tooltip="What is between pictures and latents."),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        return io.NodeOutput(*embedded_engine().load_checkpoint(_path("checkpoints", ckpt_name)))


class LoraLoader(io.ComfyNode):
    """A LoRA on the model and the text encoders."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraLoader",
            display_name="Load LoRA",
            category="loaders",
            description="Changes a model and its text encoders by a LoRA; several can be chained.",
            inputs=[
                io.Model.Input("model", tooltip="The model to change."),
                io.Clip.Input("clip", tooltip="The text encoders to change."),
                io.Combo.Input("lora_name", options=_files("loras"), tooltip="The LoRA's file."),
                io.Float.Input("strength_model", **STRENGTH, tooltip="How much to change the model; may be negative."),
                io.Float.Input("strength_clip", **STRENGTH, tooltip="How much to change the text encoders."),
            ],
            outputs=[
                io.Model.Output(tooltip="The changed model."),
                io.Clip.Output(tooltip="The changed text encoders."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float
    ) -> io.NodeOutput:
        if strength_model == 0 and strength_clip == 0:
            return io.NodeOutput(model, clip)
        patched = embedded_engine().apply_lora(model, clip, _path("loras", lora_name), strength_model, strength_clip)
        return io.NodeOutput(patched.model, patched.clip)


class LoraLoaderModelOnly(io.ComfyNode):
    """A LoRA on the model."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoraLoaderModelOnly",
            display_name="LoraLoaderModelOnly",
            category="loaders",
            description="Changes a model by a LoRA; several can be chained.",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("lora_name", options=_files("loras")),
                io.Float.Input("strength_model", **STRENGTH),
            ],
            outputs=[io.Model.Output(tooltip="The changed model.")],
        )

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength_model: float) -> io.NodeOutput:
        if strength_model == 0:
            return io.NodeOutput(model)
        return io.NodeOutput(
            embedded_engine().apply_lora(model, None, _path("loras", lora_name), strength_model, 0.0).model
        )


class ControlNetLoader(io.ComfyNode):
    """An SDXL ControlNet in diffusers' format."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ControlNetLoader",
            display_name="Load ControlNet Model",
            category="loaders",
            inputs=[io.Combo.Input("control_net_name", options=_files("controlnet"))],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        return io.NodeOutput(embedded_engine().load_control_net(_path("controlnet", control_net_name)))


def _files(folder: str) -> list[str]:
    return embedded_engine().folders().list(folder)


def _path(folder: str, name: str) -> Path:
    folders = embedded_engine().folders()
    path = folders.find(folder, name)
    if path is None:
        searched = ", ".join(str(root) for root in folders.get(folder))
        raise RylaError("missing_model", f"{name} is in none of the {folder} folders: {searched}.")
    return path
