"""Teach a real ComfyUI the widths of the shipped small SDXL and its ControlNet, for tests only.

A checkpoint with a ``<file>.clip_g.tokenizer.json`` beside it has small text encoders with that tokenizer.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.cldm.cldm
import comfy.clip_model
import comfy.controlnet
import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from comfy import sd1_clip, sdxl_clip
from transformers import PreTrainedTokenizerFast

NODE_CLASS_MAPPINGS: dict[str, type] = {}

CHANNELS, CONTEXT, ADDED = 64, 128, 2816
LEVELS = [1, 2, 1]
"""The levels' widths in channels; core finds those of a checkpoint, and takes those of a ControlNet for SDXL's."""
CLIP_L = "conditioner.embedders.0.transformer.text_model."
CLIP_G = "conditioner.embedders.1.model."
_HINTS = ("conv_in", "blocks.1", "blocks.3", "blocks.5")


class _FromFile:
    @staticmethod
    def from_pretrained(path: str, **_: Any) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(tokenizer_file=path)


def _encoders(weights: dict[str, Any], tokenizer: Path) -> tuple[type, type]:
    words, width = weights[f"{CLIP_G}token_embedding.weight"].shape
    pooled = weights[f"{CLIP_G}text_projection"].shape[1]
    layers = sum(key.startswith(CLIP_G) and key.endswith("ln_1.weight") for key in weights)
    config = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
        "num_hidden_layers": layers,
    }
    build = partial(sd1_clip.SDTokenizer, str(tokenizer), embedding_size=width, tokenizer_class=_FromFile)

    class Tokenizer(sdxl_clip.SDXLTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            self.clip_l, self.clip_g = build(), build(pad_with_end=False, embedding_key="clip_g")

    class Encoders(sdxl_clip.SDXLClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            sizes = {"clip_l_model_config": config, "clip_g_model_config": config}
            with mock.patch.object(
                comfy.clip_model, "CLIPEmbeddings", partial(comfy.clip_model.CLIPEmbeddings, vocab_size=words)
            ):
                super().__init__(device=device, dtype=dtype, model_options={**(model_options or {}), **sizes})
            linear = comfy.ops.manual_cast.Linear
            self.clip_g.transformer.text_projection = linear(width, pooled, bias=False, dtype=dtype, device=device)
            tokens = build()
            ids = {"start": tokens.start_token, "end": tokens.end_token}
            self.clip_l.special_tokens = {**ids, "pad": tokens.end_token}
            self.clip_g.special_tokens = {**ids, "pad": 0}

    return Tokenizer, Encoders


class SmallSDXL(comfy.supported_models.SDXL):
    unet_config = {**comfy.supported_models.SDXL.unet_config, "model_channels": CHANNELS, "context_dim": CONTEXT}
    encoders: tuple[type, type]

    def clip_target(self, state_dict: Any = None) -> Any:
        return comfy.supported_models_base.ClipTarget(*self.encoders)


def _is_small(weights: dict[str, Any]) -> bool:
    """Whether they are those of the small ControlNet."""
    return "conv_in.weight" in weights and weights["conv_in.weight"].shape[0] == CHANNELS


class SmallControlNet(comfy.cldm.cldm.ControlNet):
    """With other widths in what reads the hint than 16, 32, 96 and 256, when they are given."""

    def __init__(self, *args: Any, hint_widths: list[int] | None = None, **others: Any) -> None:
        super().__init__(*args, **others)
        if hint_widths is not None:
            self.input_hint_block = _hint_block(hint_widths, **others)


def _hint_block(widths: list[int], **others: Any) -> Any:
    operations, placed = others["operations"], {"dtype": others["dtype"], "device": others.get("device")}
    steps = [(others["hint_channels"], widths[0], 1)]
    for narrow, wide in pairwise(widths):
        steps += [(narrow, narrow, 1), (narrow, wide, 2)]
    layers: list[Any] = []
    for source, out, stride in steps:
        layers += [operations.conv_nd(2, source, out, 3, padding=1, stride=stride, **placed), torch.nn.SiLU()]
    layers.append(operations.conv_nd(2, widths[-1], others["model_channels"], 3, padding=1, **placed))
    return comfy.cldm.cldm.TimestepEmbedSequential(*layers)


def _install() -> None:
    comfy.supported_models.models.insert(0, SmallSDXL)
    load = comfy.sd.load_checkpoint_guess_config

    def load_checkpoint(path: str, *args: Any, **kwargs: Any) -> Any:
        tokenizer = Path(path).with_name(f"{Path(path).stem}.clip_g.tokenizer.json")
        if tokenizer.is_file():
            SmallSDXL.encoders = _encoders(comfy.utils.load_torch_file(path), tokenizer)
        return load(path, *args, **kwargs)

    comfy.sd.load_checkpoint_guess_config = load_checkpoint
    detect = comfy.model_detection.unet_config_from_diffusers_unet

    def detect_control_net(weights: dict[str, Any], dtype: Any = None) -> Any:
        if not _is_small(weights):
            return detect(weights, dtype)
        return {
            "use_checkpoint": False,
            "image_size": 32,
            "out_channels": 4,
            "use_spatial_transformer": True,
            "legacy": False,
            "num_classes": "sequential",
            "adm_in_channels": ADDED,
            "dtype": dtype,
            "in_channels": 4,
            "model_channels": CHANNELS,
            "num_res_blocks": [2, 2, 2],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "channel_mult": LEVELS,
            "transformer_depth_middle": 10,
            "use_linear_in_transformer": True,
            "context_dim": CONTEXT,
            "num_head_channels": 64,
            "hint_widths": [weights[f"controlnet_cond_embedding.{name}.weight"].shape[0] for name in _HINTS],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "use_temporal_attention": False,
            "use_temporal_resblock": False,
        }

    comfy.model_detection.unet_config_from_diffusers_unet = detect_control_net
    comfy.cldm.cldm.ControlNet = SmallControlNet
    load_control_net = comfy.controlnet.load_controlnet_state_dict

    def load_wide(weights: dict[str, Any], model: Any = None, model_options: Any = None) -> Any:
        """Core would round norms and biases to the 8 bits of most of the weights; of a checkpoint it does not."""
        options = {"dtype": comfy.model_management.unet_dtype()} if _is_small(weights) else {}
        return load_control_net(weights, model, {**(model_options or {}), **options})

    comfy.controlnet.load_controlnet_state_dict = load_wide


def _install_vae() -> None:
    """A VAE with 1x1 convolutions around its latents, of other widths than 128, 256, 512 and 512."""
    build = comfy.sd.VAE.__init__

    def shaped(self: Any, sd: Any = None, *args: Any, **kwargs: Any) -> None:
        first = (sd or {}).get("encoder.conv_in.weight")
        if first is None or first.shape[0] == 128 or "quant_conv.weight" not in sd:
            return build(self, sd, *args, **kwargs)
        original = comfy.sd.AutoencoderKL

        def small(*, ddconfig: dict[str, Any], **others: Any) -> Any:
            widths = [sd[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(4)]
            blocks = sum(name.startswith("encoder.down.0.block.") and name.endswith("conv1.weight") for name in sd)
            shape = {"ch": widths[0], "ch_mult": [width // widths[0] for width in widths], "num_res_blocks": blocks}
            others.pop("decoder_ddconfig", None)  # 0.33.0's: the decoder's width as it would be with other steps.
            return original(ddconfig={**ddconfig, **shape}, **others)

        with mock.patch.object(comfy.sd, "AutoencoderKL", small):
            return build(self, sd, *args, **kwargs)

    comfy.sd.VAE.__init__ = shaped


_install()
_install_vae()
