"""Our own networks beside diffusers' and transformers', on the same small weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny_flux
import torch
from ryla_nodes.engines.embedded.inference import vae
from ryla_nodes.engines.embedded.inference.flux_network import to_latent, to_tokens
from ryla_nodes.engines.embedded.inference.sdxl import from_open_clip
from ryla_nodes.engines.embedded.inference.text_networks import ClipShape, ClipText, distance_buckets
from ryla_nodes.engines.embedded.inference.weights import WeightFile, cpu
from ryla_nodes.models import shipped
from safetensors.torch import load_file, save_file
from small_models import Loaded


@pytest.fixture(scope="module")
def flux(tiny_home: Path) -> Loaded:
    return small_models.load(tiny_home)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) < 2e-5 * float(theirs.abs().max())


@torch.inference_mode()
def test_the_transformer(flux: Loaded) -> None:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    transformer = flux[0].transformer
    shape = transformer.shape
    theirs: Any = FluxTransformer2DModel(
        in_channels=shape.token,
        num_layers=shape.double_blocks,
        num_single_layers=shape.single_blocks,
        num_attention_heads=shape.hidden // 128,
        joint_attention_dim=shape.context,
        pooled_projection_dim=shape.pooled,
        guidance_embeds=True,
    ).eval()
    own = small_models.in_diffusers_names(transformer.network.base.state_dict(), shape.hidden)
    assert not any(theirs.load_state_dict(own))
    rows, columns, batch = 5, 7, 2
    latent = torch.randn(batch, shape.latent_channels, 2 * rows, 2 * columns)
    context, pooled = torch.randn(batch, 20, shape.context), torch.randn(batch, shape.pooled)
    sigma, guidance = torch.tensor([0.7595, 0.1]), torch.tensor([3.5, 1.0])
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float())
    (expected,) = theirs(
        to_tokens(latent), context, pooled, sigma, places, torch.zeros(20, 3), guidance, return_dict=False
    )
    ours = transformer.network.module(latent, sigma, context, pooled, guidance)
    assert close(ours, to_latent(expected, rows, columns))


@torch.inference_mode()
def test_clip(flux: Loaded) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = flux[1].clip_l
    base: Any = encoder.network.base
    state = base.state_dict()
    width = state["text_model.final_layer_norm.weight"].shape[0]
    config = CLIPTextConfig(
        vocab_size=len(state["text_model.embeddings.token_embedding.weight"]),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=len(base.text_model.encoder.layers),
        num_attention_heads=width // 64,
        eos_token_id=encoder.tokenizer.end,
    )
    theirs: Any = CLIPTextModel(config).eval()
    own = {name.removeprefix("" if hasattr(theirs, "text_model") else "text_model."): t for name, t in state.items()}
    assert not theirs.load_state_dict(own, strict=False).unexpected_keys
    chunks = encoder.tokenizer.tokenize("a (red) cat on a sofa, " * 8)
    ids = torch.tensor([[token for token, _ in chunk] for chunk in chunks])
    expected, ours = theirs(ids), base(ids)
    assert len(ids) > 1 and close(ours.states, expected.last_hidden_state)
    assert close(ours.pooled, expected.pooler_output)


@torch.inference_mode()
def test_clip_g_as_sdxl_reads_it() -> None:
    """OpenCLIP's layout under the published names, the states before the last layer, the projected end."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    vocabulary, end = 300, 299
    width, layers, projected = 64, 3, 1280
    file = WeightFile.open(shipped.path("ryla-paint-sdxl")).part("conditioner.embedders.1.model.")
    open_clip = {name: torch.randn(tensor.shape) / 8 for name, tensor in file.tensors(torch.device("cpu"))}
    open_clip["token_embedding.weight"] = torch.randn(vocabulary, width) / 8
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=1,
        projection_dim=projected,
        hidden_act="gelu",
        eos_token_id=end,
    )
    theirs: Any = CLIPTextModelWithProjection(config).eval()
    converted = convert_open_clip_checkpoint(theirs, dict(open_clip), prefix="")
    assert not theirs.load_state_dict(converted, strict=False).unexpected_keys
    shape = ClipShape(
        vocabulary, 77, width, 4 * width, layers, 1, end, projected=projected, penultimate=True, quick=False
    )
    ours = ClipText(shape)
    ours.load_state_dict(dict(pair for name, tensor in open_clip.items() for pair in from_open_clip(name, tensor)))
    ids = torch.randint(end, (2, 77))
    ids[0, 9:], ids[1, 40:] = end, end
    expected, encoded = theirs(ids, output_hidden_states=True), ours(ids)
    assert close(encoded.states, expected.hidden_states[-2])
    assert encoded.pooled is not None and close(encoded.pooled, expected.text_embeds)


@torch.inference_mode()
def test_t5(flux: Loaded) -> None:
    from transformers import T5Config, T5EncoderModel

    encoder = flux[1].t5xxl
    base: Any = encoder.network.base
    state = base.state_dict()
    vocabulary, width = state["shared.weight"].shape
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_ff=len(state["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"]),
        num_layers=len(base.encoder.block),
        num_heads=state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape[1],
        feed_forward_proj="gated-gelu",
    )
    theirs: Any = T5EncoderModel(config).eval()
    theirs.load_state_dict(state, strict=False)
    ids = torch.randint(vocabulary, (2, 300))
    assert close(base(ids).states, theirs(input_ids=ids).last_hidden_state)


def test_t5_buckets_at_every_distance() -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    places = torch.arange(700)
    expected = T5Attention._relative_position_bucket(places[None] - places[:, None], bidirectional=True)
    assert torch.equal(distance_buckets(700, 32, places.device), expected)


@pytest.mark.parametrize("quant", [False, True], ids=["Flux", "Stable Diffusion"])
@torch.inference_mode()
def test_the_autoencoder(tiny_home: Path, tmp_path: Path, quant: bool) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    tensors = load_file(str(tiny_flux.files(tiny_home / "models").vae))
    if quant:
        for name, size in (("quant_conv", 32), ("post_quant_conv", 16)):
            tensors |= {f"{name}.weight": torch.randn(size, size, 1, 1), f"{name}.bias": torch.randn(size)}
    save_file(tensors, tmp_path / "vae.safetensors")
    ours: Any = vae.load(WeightFile.open(tmp_path / "vae.safetensors"), cpu()).network.base
    config = {
        "block_out_channels": [32, 64, 128, 128],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": quant,
        "use_post_quant_conv": quant,
    }
    theirs: Any = AutoencoderKL(**config).eval()
    assert not any(theirs.load_state_dict(convert_ldm_vae_checkpoint(tensors, config)))
    picture, latent = torch.rand(2, 3, 48, 64) * 2 - 1, torch.randn(2, 16, 6, 8)
    theirs_of = theirs.encode(picture).latent_dist
    assert close(ours.encode(picture)[0], theirs_of.mode())
    assert close(ours.encode(picture)[1].clamp(-30, 20), theirs_of.logvar)
    assert close(ours.decode(latent), theirs.decode(latent).sample)
