"""The small SDXL and InstantID: the engine's networks with the values that training starts from.

True key names and all 70 cross-attention layers; the levels are 64, 128 and 64 wide instead of 320, 640 and 1280.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from ryla_nodes.engines.embedded.inference.instantid import install
from ryla_nodes.engines.embedded.inference.sdxl import shared_config
from ryla_nodes.engines.embedded.inference.text_networks import ClipShape, ClipText
from ryla_nodes.engines.embedded.inference.vae import Autoencoder, VaeShape
from ryla_nodes.identity.adapter import resample
from ryla_nodes.identity.attention import LAYERS, adapter_name, token_grid
from torch import Tensor, nn
from torch.nn import functional

from ..text import CLIP_LENGTH

WIDTHS = (64, 128, 64)
HINTS = (16, 16, 32, 64)
CLIP_WIDTH, CLIP_LAYERS = 64, 3
CONTEXT = 2 * CLIP_WIDTH
POOLED = 1280
ADDED = POOLED + 6 * 256
"""By it ComfyUI tells SDXL from its refiner."""
TOKENS, EMBEDDING, RESAMPLER, DEPTH = 16, 512, 128, 4
LATENT_CHANNELS = 4
PARTS = ("wide", "narrow", "middle")
"""Where the cross-attention layers are: on the level of 128, on those of 64, in the middle block."""
_RESAMPLER_MATRICES = {"0.to_q": (1, 1), "0.to_kv": (2, 1), "0.to_out": (1, 1), "1.1": (4, 1), "1.3": (1, 4)}
"""Of each layer, rows and columns in its widths."""
_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")


def unet() -> UNet2DConditionModel:
    """The UNet, its attention open to identities; every transformer block is the identity at first."""
    module = UNet2DConditionModel(
        **shared_config(WIDTHS, CONTEXT, ADDED),
        down_block_types=_DOWN,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    install(module)
    _start(module)
    nn.init.zeros_(module.conv_out.weight)
    return module


def control_net() -> ControlNetModel:
    """The ControlNet; its outputs are zero at first."""
    module = ControlNetModel(
        **shared_config(WIDTHS, CONTEXT, ADDED),
        down_block_types=_DOWN,
        conditioning_embedding_out_channels=HINTS,
    )
    _start(module)
    # Published ControlNets start from a trained UNet, with a hint of zero; this one learns beside its UNet.
    nn.init.normal_(module.controlnet_cond_embedding.conv_out.weight, std=0.05)
    return module


def _start(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if name.endswith(("to_out.0", "ff.net.2")) and isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


class Text(nn.Module):
    """CLIP-L and CLIP-G side by side."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        shape = (vocabulary, CLIP_LENGTH, CLIP_WIDTH, 4 * CLIP_WIDTH, CLIP_LAYERS, CLIP_WIDTH // 64)
        end = vocabulary - 1
        self.clip_l = ClipText(ClipShape(*shape, end=end, penultimate=True))
        self.clip_g = ClipText(ClipShape(*shape, end=end, projected=POOLED, penultimate=True, quick=False))
        for name, weight in self.named_parameters():
            if "embeddings." in name:
                nn.init.normal_(weight, std=0.1)

    def forward(self, clip_l: Tensor, clip_g: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, 77, CONTEXT) and pooled vector (B, POOLED) of token ids (B, 77), padded for each."""
        narrow, wide = self.clip_l(clip_l), self.clip_g(clip_g)
        pooled: Any = wide.pooled
        return torch.cat((narrow.states, wide.states), dim=-1), pooled


class Adapter(nn.Module):
    """The part of InstantID's adapter that makes identity tokens; the layers' keys and values are in ``Crossing``."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.ParameterDict()
        width = RESAMPLER
        self._linear("proj_in", width, EMBEDDING)
        self._linear("proj_out", CONTEXT, width)
        self._norm("norm_out", CONTEXT)
        self._set("latents", torch.randn(1, TOKENS, width) / math.sqrt(width))
        for layer in (f"layers.{index}" for index in range(DEPTH)):
            for norm in ("0.norm1", "0.norm2", "1.0"):
                self._norm(f"{layer}.{norm}", width)
            for name, (out, source) in _RESAMPLER_MATRICES.items():
                self._set(f"{layer}.{name}.weight", _matrix(out * width, source * width))

    def _set(self, name: str, values: Tensor) -> None:
        self.image[_safe(name)] = nn.Parameter(values)

    def _linear(self, name: str, out: int, source: int) -> None:
        self._set(f"{name}.weight", _matrix(out, source))
        self._set(f"{name}.bias", torch.zeros(out))

    def _norm(self, name: str, width: int) -> None:
        self._set(f"{name}.weight", torch.ones(width))
        self._set(f"{name}.bias", torch.zeros(width))

    def published(self) -> dict[str, Tensor]:
        """``image_proj`` under its published names."""
        return {key.replace("/", "."): value for key, value in self.image.items()}

    def forward(self, vectors: Tensor) -> Tensor:
        """Identity tokens (B, 16, CONTEXT) of embeddings (B, 512)."""
        return resample(self.published(), vectors[:, None])


@dataclass(frozen=True)
class Crowd:
    """Who is in B pictures, P of which, the last ones, show two people: ``tokens`` (B + P, 16, CONTEXT) and their
    ``strength`` (B + P, 3) in each of PARTS, those of the second people behind all others."""

    tokens: Tensor
    strength: Tensor
    pictures: int
    latent_size: tuple[int, int]


class Crossing(nn.Module):
    """A cross-attention layer's processor with the adapter's keys and values for it.

    They are its own modules, and where it is (one of PARTS) is a tensor: so all layers of a width share one compiled
    graph.
    """

    part: Tensor

    def __init__(self, width: int, part: str) -> None:
        super().__init__()
        self.register_buffer("part", torch.tensor([float(part == each) for each in PARTS]), persistent=False)
        self.to_k_ip = nn.Linear(CONTEXT, width, bias=False)
        self.to_v_ip = nn.Linear(CONTEXT, width, bias=False)

    def __call__(  # diffusers looks for the names of a processor's arguments in ``__call__``.
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        identity: Crowd | None = None,
    ) -> Tensor:
        q = attn.to_q(hidden_states)
        out = _attend(q, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attn.heads)
        if identity is not None:
            out = out + self._people(q, identity, attn.heads)
        projected: Tensor = attn.to_out[0](out)
        return projected

    def _people(self, q: Tensor, crowd: Crowd, heads: int) -> Tensor:
        k, v = self.to_k_ip(crowd.tokens), self.to_v_ip(crowd.tokens)
        rows, strength = crowd.pictures, (crowd.strength * self.part).sum(1).view(-1, 1, 1)
        first = _attend(q, k[:rows], v[:rows], heads) * strength[:rows]
        alone = 2 * rows - len(crowd.tokens)
        if alone == rows:
            return first
        second = _attend(q[alone:], k[rows:], v[rows:], heads) * strength[rows:]
        right = _right_half(q.shape[1], crowd.latent_size, q.device)
        return torch.cat([first[:alone], first[alone:] * (1 - right) + second * right])


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _right_half(tokens: int, latent_size: tuple[int, int], device: torch.device) -> Tensor:
    """(1, tokens, 1): 1 in the right half of a layer's grid."""
    rows, columns = token_grid(tokens, *latent_size)
    place = torch.arange(columns, device=device) >= columns // 2
    return place.expand(rows, columns).reshape(1, -1, 1).float()


def _safe(name: str) -> str:
    """Names of parameters have no dots."""
    return name.replace(".", "/")


def _matrix(out: int, source: int) -> Tensor:
    return torch.randn(out, source) / math.sqrt(source)


class Painter(nn.Module):
    """All that is trained together: UNet, ControlNet, text encoders, adapter."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.unet, self.control, self.text, self.adapter = unet(), control_net(), Text(vocabulary), Adapter()
        positions: dict[int, Any] = {}
        for module in self.unet.modules():
            position = getattr(getattr(module, "processor", None), "position", None)
            if position is not None:
                positions[position] = module
        # In the order of ``LAYERS``. Not modules of this one, too: they are the UNet's.
        self._crossings = [
            Crossing(positions[index].to_q.out_features, _part(index, positions[index].to_q.out_features))
            for index in range(len(LAYERS))
        ]
        for index, crossing in enumerate(self._crossings):
            positions[index].set_processor(crossing)
        for network in (self.unet, self.control):
            network.to(memory_format=torch.channels_last)

    def identity_layers(self) -> dict[str, Tensor]:
        """``ip_adapter`` under its published names."""
        return {
            adapter_name(index, part): getattr(crossing, f"to_{part}_ip").weight
            for index, crossing in enumerate(self._crossings)
            for part in "kv"
        }

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks of UNet and ControlNet."""
        return [
            block
            for network in (self.unet, self.control)
            for block in network.modules()
            if isinstance(block, BasicTransformerBlock)
        ]

    def matrices(self) -> list[nn.Parameter]:
        """The weights of the linear layers in all transformer blocks, and the adapter's."""
        # SDXL reads CLIP-L before its last layer, which learns nothing.
        towers = [*self.text.clip_l.text_model.encoder.layers[:-1], *self.text.clip_g.text_model.encoder.layers]
        parts: list[nn.Module] = [*self.blocks(), *towers]
        found = [layer.weight for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]
        return [*found, *(value for value in self.adapter.image.values() if value.dim() == 2)]


def _part(index: int, width: int) -> str:
    """In which of PARTS the layer ``LAYERS[index]`` of this width is."""
    if LAYERS[index].block == "middle":
        return "middle"
    return "wide" if width == max(WIDTHS) else "narrow"


def autoencoder(widths: tuple[int, ...]) -> Autoencoder:
    """SDXL's autoencoder: four channels, 1x1 convolutions around them."""
    return Autoencoder(VaeShape(widths, blocks=1, latent=LATENT_CHANNELS, quant=True, post_quant=True))


def frozen(vae: Autoencoder, device: torch.device) -> Autoencoder:
    """A copy of the trained autoencoder, on a GPU in bfloat16: autocast would normalise whole pictures in float32, and
    move twice the bytes.
    """
    return copy.deepcopy(vae).requires_grad_(False).to(torch.bfloat16 if device.type == "cuda" else torch.float32)


@torch.no_grad()
def fold_latent_format(vae: Autoencoder, mean: Tensor, std: Tensor, scale: float) -> None:
    """Rescale latents of this mean and deviation (4,) to mean 0 and deviation 1 / ``scale``, in the 1x1 layers."""
    gain = 1 / (scale * std)
    out, entry = vae.quant_conv, vae.post_quant_conv
    out.weight[:LATENT_CHANNELS] *= gain.view(-1, 1, 1, 1)
    out.bias[:LATENT_CHANNELS] = (out.bias[:LATENT_CHANNELS] - mean) * gain
    entry.bias += entry.weight[:, :, 0, 0] @ mean
    entry.weight /= gain.view(1, -1, 1, 1)
