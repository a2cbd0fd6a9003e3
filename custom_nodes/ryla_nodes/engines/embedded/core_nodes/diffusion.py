"""ComfyUI's nodes of the diffusion itself: prompts as conditionings, latents, the KSampler, the VAE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...schema import io
from ..execution.calls import ProgressBar
from ..files import require_size
from ..inference.samplers import SAMPLERS
from ..inference.schedules import SCHEDULERS

MAX_RESOLUTION = 16384
GUIDANCE: dict[str, Any] = {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1}
BATCH: dict[str, Any] = {"default": 1, "min": 1, "max": 4096}


class CLIPTextEncode(io.ComfyNode):
    """A prompt as a conditioning."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="conditioning",
            description="Encodes a prompt. (word:1.2) gives a word another weight.",
            inputs=[
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                io.Clip.Input("clip", tooltip="The text encoders."),
            ],
            outputs=[io.Conditioning.Output(tooltip="The encoded prompt.")],
        )

    @classmethod
    def execute(cls, text: str, clip: Any) -> io.NodeOutput:
        return io.NodeOutput(clip.encode(clip.tokenize(text)))


class CLIPTextEncodeFlux(io.ComfyNode):
    """Different prompts for Flux's two encoders, and the guidance."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_flux"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CLIPTextEncodeFlux",
            category="advanced/conditioning/flux",
            inputs=[
                io.Clip.Input("clip"),
                io.String.Input("clip_l", multiline=True, dynamic_prompts=True),
                io.String.Input("t5xxl", multiline=True, dynamic_prompts=True),
                io.Float.Input("guidance", **GUIDANCE),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, clip_l: str, t5xxl: str, guidance: float) -> io.NodeOutput:
        tokens = {**clip.tokenize(clip_l), "t5xxl": clip.tokenize(t5xxl)["t5xxl"]}
        return io.NodeOutput(clip.encode(tokens, guidance=guidance))


class FluxGuidance(io.ComfyNode):
    """The guidance that Flux was distilled with, on a conditioning."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_flux"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuidance",
            category="advanced/conditioning/flux",
            inputs=[io.Conditioning.Input("conditioning"), io.Float.Input("guidance", **GUIDANCE)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Any, guidance: float) -> io.NodeOutput:
        return io.NodeOutput([[context, {**values, "guidance": guidance}] for context, values in conditioning])


class ConditioningZeroOut(io.ComfyNode):
    """A conditioning of zeros, of the same size."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConditioningZeroOut",
            display_name="ConditioningZeroOut",
            category="advanced/conditioning",
            inputs=[io.Conditioning.Input("conditioning")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Any) -> io.NodeOutput:
        return io.NodeOutput([[context * 0.0, _without_pooled(values)] for context, values in conditioning])


class KSampler(io.ComfyNode):
    """Denoise a latent."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KSampler",
            display_name="KSampler",
            category="sampling",
            description="Uses the model and the positive and negative conditioning to denoise the latent.",
            inputs=[
                io.Model.Input("model", tooltip="What denoises the latent."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="What the noise is made from.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="The number of steps."),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How far to go from the negative to the positive; at 1 the negative has no part.",
                ),
                io.Combo.Input("sampler_name", options=list(SAMPLERS), tooltip="How each step is made."),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), tooltip="How the noise falls over the steps."),
                io.Conditioning.Input("positive", tooltip="What the picture is to show."),
                io.Conditioning.Input("negative", tooltip="What the picture is not to show."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the noise to use: less keeps more of the latent.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float = 1.0,
    ) -> io.NodeOutput:
        from ..inference.sampling import Job, sample

        job = Job(seed, steps, cfg, sampler_name, scheduler, denoise)
        progress = ProgressBar(steps).update_absolute
        return io.NodeOutput(sample(model, job, positive, negative, latent_image, progress))


class EmptyLatentImage(io.ComfyNode):
    """Latents of zeros for a picture of this size."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        size: dict[str, Any] = {"default": 512, "min": 16, "max": MAX_RESOLUTION, "step": 8}
        return io.Schema(
            node_id="EmptyLatentImage",
            display_name="Empty Latent Image",
            category="latent",
            description="Makes a batch of empty latents to be denoised by sampling.",
            inputs=[
                io.Int.Input("width", **size, tooltip="The width in pixels."),
                io.Int.Input("height", **size, tooltip="The height in pixels."),
                io.Int.Input("batch_size", **BATCH, tooltip="The number of latents."),
            ],
            outputs=[io.Latent.Output(tooltip="The empty latents.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> io.NodeOutput:
        return io.NodeOutput(_empty(batch_size, 4, width, height))


class EmptySD3LatentImage(io.ComfyNode):
    """Latents of zeros with Flux's 16 channels."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_sd3"

    @classmethod
    def define_schema(cls) -> io.Schema:
        size: dict[str, Any] = {"default": 1024, "min": 16, "max": MAX_RESOLUTION, "step": 16}
        return io.Schema(
            node_id="EmptySD3LatentImage",
            category="latent/sd3",
            inputs=[
                io.Int.Input("width", **size),
                io.Int.Input("height", **size),
                io.Int.Input("batch_size", **BATCH),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> io.NodeOutput:
        return io.NodeOutput(_empty(batch_size, 16, width, height))


class SetLatentNoiseMask(io.ComfyNode):
    """Denoise a latent only where a mask is white."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SetLatentNoiseMask",
            display_name="Set Latent Noise Mask",
            category="latent/inpaint",
            inputs=[io.Latent.Input("samples"), io.Mask.Input("mask")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], mask: Any) -> io.NodeOutput:
        return io.NodeOutput({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])})


class VAEDecode(io.ComfyNode):
    """Latents to pictures."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAEDecode",
            display_name="VAE Decode",
            category="latent",
            description="Decodes latents into pictures.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents to decode."),
                io.Vae.Input("vae", tooltip="The VAE that decodes them."),
            ],
            outputs=[io.Image.Output(tooltip="The pictures.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any) -> io.NodeOutput:
        return io.NodeOutput(vae.decode(samples["samples"]))


class VAEEncode(io.ComfyNode):
    """Pictures to latents."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAEEncode",
            display_name="VAE Encode",
            category="latent",
            inputs=[io.Image.Input("pixels"), io.Vae.Input("vae")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, pixels: Any, vae: Any) -> io.NodeOutput:
        return io.NodeOutput({"samples": vae.encode(pixels)})


class DifferentialDiffusion(io.ComfyNode):
    """Sample each pixel for as long as its mask is bright."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_differential_diffusion"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DifferentialDiffusion",
            display_name="Differential Diffusion",
            category="_for_testing",
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, optional=True),
            ],
            outputs=[io.Model.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, model: Any, strength: float = 1.0) -> io.NodeOutput:
        from ..inference.sdxl_model import differential

        return io.NodeOutput(replace(model, mask_function=differential(model.sampling, strength)))


def _without_pooled(values: dict[str, Any]) -> dict[str, Any]:
    pooled = values.get("pooled_output")
    return values if pooled is None else {**values, "pooled_output": pooled * 0.0}


def _empty(batch: int, channels: int, width: int, height: int) -> dict[str, Any]:
    import torch

    require_size(width, height, batch, name="The latent's picture")
    return {"samples": torch.zeros(batch, channels, height // 8, width // 8)}
