"""ComfyUI's text encoding and conditioning nodes."""

from __future__ import annotations

from typing import Any

from ...schema import io

GUIDANCE: dict[str, Any] = {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1}


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


def _without_pooled(values: dict[str, Any]) -> dict[str, Any]:
    pooled = values.get("pooled_output")
    return values if pooled is None else {**values, "pooled_output": pooled * 0.0}


NODES = (CLIPTextEncode, CLIPTextEncodeFlux, FluxGuidance, ConditioningZeroOut)
