"""LoRAs on the small Flux: ComfyUI's arithmetic, every format, clones that leave the base alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import small_models
import tiny_flux
import torch
from ryla_nodes.engines.embedded.inference import lora
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import keys
from ryla_nodes.loras.check import LoraResult
from ryla_nodes.loras.flux_modules import diffusers_parts
from safetensors.torch import load_file, save_file
from small_models import CLIP_LAYERS, LAYERS, T5_LAYERS, Loaded

SPLIT = sum(len(diffusers_parts(name, 256)) for name in LAYERS)  # Layers of diffusers' network behind LAYERS.


@pytest.fixture(scope="module")
def flux(tiny_home: Path) -> Loaded:
    return small_models.load(tiny_home)


def weight(flux: Loaded, result: LoraResult, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight of the transformer before and after."""
    network = result.model.transformer.network
    return flux[0].transformer.network.base.get_parameter(name), network.module.get_parameter(name)


@pytest.mark.parametrize("write", [small_models.kohya, small_models.diffusers])
@pytest.mark.parametrize("strength", [1.0, 0.5, -2.0])
def test_the_arithmetic(flux: Loaded, tmp_path: Path, strength: float, write: Callable[..., Path]) -> None:
    """Fused layers, which diffusers takes apart, and the one whose halves it swaps, among them."""
    result = lora.apply(flux[0], None, write(tmp_path / "x.safetensors", rank=4, alpha=2.0), strength, 0.0)
    for name, (up, down) in small_models.factors(LAYERS, 256, 4, 0.05).items():
        before, after = weight(flux, result, f"{name}.weight")
        assert torch.allclose(after, before + strength * (2.0 / 4) * (up @ down), atol=1e-6), name


def test_every_format_says_the_same(flux: Loaded, tmp_path: Path) -> None:
    pictures, counts = [], []
    for write in (small_models.kohya, small_models.diffusers, small_models.ai_toolkit):
        result = lora.apply(flux[0], None, write(tmp_path / f"{write.__name__}.safetensors"), 1.0, 0.0)
        pictures.append(small_models.latent((result.model, *flux[1:])))
        counts.append(result.matched_model)
        assert result.unmatched == ()
    assert counts == [len(LAYERS), SPLIT, len(LAYERS)]
    assert (pictures[0] - small_models.latent(flux)).abs().mean() > 0.05
    for other in pictures[1:]:
        assert torch.allclose(pictures[0], other, atol=1e-3)


def test_strength_zero_is_bit_for_bit_nothing(flux: Loaded, tmp_path: Path) -> None:
    path = small_models.kohya(tmp_path / "x.safetensors", clip=True)
    result = lora.apply(flux[0], flux[1], path, 0.0, 0.0)
    assert result.matched_model == len(LAYERS)
    assert result.matched_clip == len(CLIP_LAYERS) + len(T5_LAYERS)
    assert torch.equal(small_models.latent((result.model, result.clip, flux[2])), small_models.latent(flux))


def test_the_base_is_never_changed(flux: Loaded, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in flux[0].transformer.network.base.state_dict().items()}
    plain = small_models.latent(flux)
    path = small_models.kohya(tmp_path / "x.safetensors", clip=True)
    result = lora.apply(flux[0], flux[1], path, 1.0, 1.0)
    changed = small_models.latent((result.model, result.clip, flux[2]))
    after = flux[0].transformer.network.base.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(small_models.latent(flux), plain)
    assert not torch.equal(changed, plain)


def test_a_clone_shares_what_is_not_patched(flux: Loaded, tmp_path: Path) -> None:
    result = lora.apply(flux[0], None, small_models.kohya(tmp_path / "x.safetensors"), 1.0, 0.0)
    base = dict(flux[0].transformer.network.base.named_parameters())
    clone = dict(result.model.transformer.network.module.named_parameters())
    assert base.keys() == clone.keys()
    assert sum(clone[name] is not base[name] for name in base) == len(LAYERS)


def test_loras_add_up_in_a_chain(flux: Loaded, tmp_path: Path) -> None:
    path = small_models.kohya(tmp_path / "x.safetensors")
    once = lora.apply(flux[0], None, path, 1.0, 0.0)
    twice = lora.apply(lora.apply(flux[0], None, path, 0.25, 0.0).model, None, path, 0.75, 0.0)
    for name in ("double_blocks.0.img_attn.qkv.weight", "single_blocks.3.linear2.weight"):
        assert torch.allclose(weight(flux, once, name)[1], weight(flux, twice, name)[1], atol=1e-6)
    back = lora.apply(once.model, None, path, -1.0, 0.0)
    assert torch.allclose(small_models.latent((back.model, *flux[1:])), small_models.latent(flux), atol=1e-2)


def test_the_effect_grows_with_the_strength(flux: Loaded, tmp_path: Path) -> None:
    path, plain = small_models.kohya(tmp_path / "x.safetensors"), small_models.latent(flux)
    distances = [
        float((small_models.latent((lora.apply(flux[0], None, path, s, 0.0).model, *flux[1:])) - plain).abs().mean())
        for s in (0.25, 0.5, 1.0)
    ]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_text_encoders_are_patched_by_their_own_strength(flux: Loaded, tmp_path: Path) -> None:
    path = small_models.kohya(tmp_path / "x.safetensors", clip=True)
    _, clip, _ = flux

    def encoded(strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        patched = lora.apply(flux[0], clip, path, 1.0, strength).clip
        context, values = patched.encode(patched.tokenize("a cat"))[0]
        return context, values["pooled_output"]

    plain = clip.encode(clip.tokenize("a cat"))[0]
    assert torch.equal(encoded(0.0)[0], plain[0]) and torch.equal(encoded(0.0)[1], plain[1]["pooled_output"])
    assert (encoded(1.0)[0] - plain[0]).abs().mean() > 1e-3
    assert (encoded(1.0)[1] - plain[1]["pooled_output"]).abs().mean() > 1e-3


def test_a_file_with_both_and_no_clip_connected(flux: Loaded, tmp_path: Path) -> None:
    result = lora.apply(flux[0], None, small_models.kohya(tmp_path / "x.safetensors", clip=True), 1.0, 1.0)
    assert (result.matched_model, result.matched_clip, result.clip) == (len(LAYERS), 0, None)
    assert len(result.unmatched) == 3 * (len(CLIP_LAYERS) + len(T5_LAYERS))


def test_keys_that_patch_nothing_are_named(flux: Loaded, tmp_path: Path) -> None:
    path = small_models.kohya(tmp_path / "x.safetensors")
    tensors = load_file(path)
    tensors["lora_unet_double_blocks_99_img_mlp_0.lora_up.weight"] = torch.zeros(1024, 4)
    tensors["lora_unet_single_blocks_0_linear1.dora_scale"] = torch.ones(1792, 1)
    tensors["something.else"] = torch.zeros(1)
    save_file(tensors, path)
    result = lora.apply(flux[0], None, path, 1.0, 0.0)
    assert result.matched_model == len(LAYERS) - 1
    # A module with a DoRA scale is left out as a whole: without it the sum would be wrong.
    assert set(result.unmatched) == {
        "lora_unet_double_blocks_99_img_mlp_0.lora_up.weight",
        "something.else",
        *(
            f"lora_unet_single_blocks_0_linear1.{end}"
            for end in ("lora_up.weight", "lora_down.weight", "alpha", "dora_scale")
        ),
    }


def test_a_lora_of_another_size(flux: Loaded, tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {f"{name}.lora_up.weight": torch.zeros(3072, 4), f"{name}.lora_down.weight": torch.zeros(4, 3072)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(RylaError, match=name) as caught:
        lora.apply(flux[0], flux[1], tmp_path / "x.safetensors", 1.0, 1.0)
    assert caught.value.code == "lora_wrong_size"


def test_a_lora_of_another_family_matches_nothing(flux: Loaded, tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_1_1_proj_in"
    tensors = {f"{name}.lora_up.weight": torch.zeros(320, 4), f"{name}.lora_down.weight": torch.zeros(4, 320)}
    save_file(tensors, tmp_path / "x.safetensors")
    result = lora.apply(flux[0], flux[1], tmp_path / "x.safetensors", 1.0, 1.0)
    assert (result.matched_model, result.matched_clip) == (0, 0)
    assert set(result.unmatched) == tensors.keys()


def test_on_eight_bit_weights_the_sum_is_rounded_once(tiny_home: Path, tmp_path: Path) -> None:
    engine = small_models.engine(tiny_home)
    model = engine.load_transformer(tiny_flux.files(tiny_home / "models").transformer, "fp8_e4m3fn")
    result = lora.apply(model, None, small_models.kohya(tmp_path / "x.safetensors"), 1.0, 0.0)
    name = "double_blocks.0.img_attn.qkv.weight"
    before = model.transformer.network.base.get_parameter(name)
    after = result.model.transformer.network.module.get_parameter(name)
    up, down = small_models.factors(LAYERS, 256, 4, 0.05)["double_blocks.0.img_attn.qkv"]
    assert after.dtype == torch.float8_e4m3fn
    assert torch.equal(after, (before.float() + 0.5 * (up @ down)).to(torch.float8_e4m3fn))


@pytest.mark.parametrize("ending", keys.PAIRS)
def test_every_spelling_of_a_pair(flux: Loaded, tmp_path: Path, ending: tuple[str, str]) -> None:
    up, down = small_models.factors({"img_in": (256, 64)}, 1, 2, 0.05)["img_in"]
    save_file(
        {f"diffusion_model.img_in{ending[0]}": up, f"diffusion_model.img_in{ending[1]}": down},
        tmp_path / "x.safetensors",
    )
    result = lora.apply(flux[0], None, tmp_path / "x.safetensors", 1.0, 0.0)
    before, after = weight(flux, result, "img_in.weight")
    assert result.matched_model == 1
    assert torch.allclose(after, before + up @ down, atol=1e-6)


@pytest.mark.parametrize(
    "prefix",
    ["transformer.", "", "lora_transformer_", "lycoris_"],
    ids=["diffusers", "bare", "OneTrainer", "SimpleTuner"],
)
def test_every_spelling_of_a_diffusers_name(flux: Loaded, tmp_path: Path, prefix: str) -> None:
    module = "single_transformer_blocks.1.proj_mlp"
    up, down = small_models.factors({module: (1024, 256)}, 1, 2, 0.05)[module]
    name = prefix + (module.replace(".", "_") if prefix.endswith("_") else module)
    save_file({f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}, tmp_path / "x.safetensors")
    result = lora.apply(flux[0], None, tmp_path / "x.safetensors", 1.0, 0.0)
    before, after = weight(flux, result, "single_blocks.1.linear1.weight")
    assert torch.equal(after[:768], before[:768])  # Query, key and value.
    assert torch.allclose(after[768:], before[768:] + up @ down, atol=1e-6)
