"""The embedded engine's models in a plain diffusers pipeline: what bench_embedded.py runs beside it.

python benchmarks/plain_diffusers.py PROMPT SIZE STEPS FILE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "custom_nodes"))

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from ryla_nodes.loras.flux_modules import diffusers_parts
from ryla_nodes.models import shipped
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

FLUX, CLIP_L, T5, AE = map(shipped.path, shipped.FLUX)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def transformer() -> Any:
    state = weights(FLUX)
    hidden, tokens = state["img_in.weight"].shape
    module = FluxTransformer2DModel(
        in_channels=tokens,
        num_layers=blocks(state, "double_blocks"),
        num_single_layers=blocks(state, "single_blocks"),
        num_attention_heads=hidden // 128,
        joint_attention_dim=state["txt_in.weight"].shape[1],
        pooled_projection_dim=state["vector_in.in_layer.weight"].shape[1],
        guidance_embeds=True,
    )
    module.load_state_dict(dict(pair for name, tensor in state.items() for pair in split(name, tensor, hidden)))
    return module.eval()


def split(key: str, tensor: torch.Tensor, hidden: int) -> Iterator[tuple[str, torch.Tensor]]:
    """A weight of the published file as diffusers names and splits it."""
    module, _, kind = key.rpartition(".")
    for name, place in diffusers_parts(module, hidden).items():
        yield f"{name}.{'weight' if kind == 'scale' else kind}", place.rows(tensor)


def blocks(state: dict[str, torch.Tensor], prefix: str) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith(f"{prefix}."))


def clip(vocabulary: PreTrainedTokenizerFast) -> Any:
    state = weights(CLIP_L)
    words, width = state["text_model.embeddings.token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=1 + max(int(name.split(".")[3]) for name in state if ".layers." in name),
        num_attention_heads=width // 64,
        eos_token_id=vocabulary.eos_token_id,
    )
    module = CLIPTextModel(config)
    prefix = "" if hasattr(module, "text_model") else "text_model."
    module.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()}, strict=False)
    return module.eval()


def t5() -> Any:
    state = weights(T5)
    words, width = state["shared.weight"].shape
    config = T5Config(
        vocab_size=words,
        d_model=width,
        d_ff=len(state["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"]),
        num_layers=blocks({name.removeprefix("encoder."): tensor for name, tensor in state.items()}, "block"),
        num_heads=state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape[1],
        feed_forward_proj="gated-gelu",
    )
    module = T5EncoderModel(config)
    module.load_state_dict(state, strict=False)
    module.set_input_embeddings(module.shared)
    return module.eval()


def autoencoder() -> Any:
    state = weights(AE)
    levels = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.down."))
    config = {
        "block_out_channels": [len(state[f"encoder.down.{n}.block.0.conv1.weight"]) for n in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    }
    module = AutoencoderKL(**config)
    module.load_state_dict(convert_ldm_vae_checkpoint(state, config))
    return module.eval()


def tokenizer(encoder: Path, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(encoder.with_name(f"{encoder.stem}.tokenizer.json")), **special)


def main() -> None:
    prompt, size, steps, file = sys.argv[1:]
    end = "<|endoftext|>"
    short, wide = tokenizer(CLIP_L, eos_token=end, pad_token=end), tokenizer(T5, eos_token="</s>", pad_token="<pad>")
    short.model_max_length = 77
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline = FluxPipeline(scheduler, autoencoder(), clip(short), short, t5(), wide, transformer())
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt,
        width=int(size),
        height=int(size),
        num_inference_steps=int(steps),
        guidance_scale=3.5,
        max_sequence_length=256,
        generator=torch.Generator().manual_seed(7),
    )
    made.images[0].save(file)


if __name__ == "__main__":
    main()
