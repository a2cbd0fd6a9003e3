"""The UNet's names in the published (LDM) layout, from diffusers'."""

from __future__ import annotations

from torch import Tensor, nn

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def published(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of diffusers' SDXL UNet by their names in SDXL's checkpoint, without its processors'."""
    places = _places()
    named: dict[str, Tensor] = {}
    for name, value in unet.state_dict().items():
        if ".processor." in name:
            continue
        start = next(place for place in places if name.startswith(f"{place}."))
        rest = name[len(start) + 1 :]
        part, _, end = rest.partition(".")
        named[f"{places[start]}.{_RESIDUAL[part]}.{end}" if ".resnets." in start else f"{places[start]}.{rest}"] = value
    return named


def _places() -> dict[str, str]:
    """Where each of diffusers' modules is: SDXL has three levels, of two blocks on the way down and three up."""
    places = dict(_ENDS)
    for level in range(3):
        for index in range(2):
            for number, kind in enumerate(("resnets", "attentions")):
                places[f"down_blocks.{level}.{kind}.{index}"] = f"input_blocks.{3 * level + index + 1}.{number}"
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{3 * level + 3}.0.op"
        for index in range(3):
            for number, kind in enumerate(("resnets", "attentions")):
                places[f"up_blocks.{level}.{kind}.{index}"] = f"output_blocks.{3 * level + index}.{number}"
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{3 * level + 2}.2.conv"
    return places
