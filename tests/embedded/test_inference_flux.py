"""Loading Flux's files: names, dtypes, 8-bit floats, checkpoints, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny_flux
import torch
from ryla_nodes.engines.embedded.inference import lora, tokenizers, weights
from ryla_nodes.engines.embedded.inference.weights import CastLinear, WeightFile
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import flux_modules
from ryla_nodes.models.flux_files import FluxFiles
from safetensors.torch import load_file, save_file
from small_models import Loaded


@pytest.fixture(scope="module")
def flux(tiny_home: Path) -> Loaded:
    return small_models.load(tiny_home)


@pytest.fixture(scope="module")
def files(tiny_home: Path) -> FluxFiles:
    return tiny_flux.files(tiny_home / "models")


def test_the_names_are_those_of_diffusers_own_converter() -> None:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    hidden = 3072  # The only width that diffusers' converter knows; one column is enough to see where the rows go.
    rows = {"qkv": 3, "proj": 1, "0": 4, "2": 1, "img_mod.lin": 6, "txt_mod.lin": 6, "modulation.lin": 3}
    rows |= {"linear1": 7, "linear2": 1, "adaLN_modulation.1": 2}
    bfl: dict[str, torch.Tensor] = {}
    for number, module in enumerate(flux_modules.modules(2, 2)):
        if "norm" in module:
            bfl[f"{module}.scale"] = torch.full((128,), float(number))
            continue
        size = hidden * next((count for ending, count in rows.items() if module.endswith(ending)), 1)
        bfl[f"{module}.weight"] = torch.arange(size)[:, None] + number * 0.001
        bfl[f"{module}.bias"] = torch.arange(size) + number * 0.001
    ours = small_models.in_diffusers_names(bfl, hidden)
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(bfl))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_an_unknown_name_goes_nowhere() -> None:
    assert flux_modules.diffusers_parts("double_blocks.0.img_attn.other", 256) == {}
    assert flux_modules.diffusers_parts("lora_something", 256) == {}


def test_the_picture_depends_on_prompt_seed_and_guidance(flux: Loaded) -> None:
    plain = small_models.latent(flux)
    assert plain.isfinite().all() and plain.std() > 0.5
    assert torch.equal(plain, small_models.latent(flux))
    for change in ({"prompt": "a blue house"}, {"seed": 2}, {"guidance": 1.0}, {"prompt": "a (red:2) cat"}):
        assert (plain - small_models.latent(flux, **change)).abs().mean() > 0.005, change


def test_the_picture_is_not_flat(flux: Loaded) -> None:
    picture = flux[2].decode(small_models.latent(flux, size=(96, 64)))
    assert picture.shape == (1, 64, 96, 3)
    assert picture.min() >= 0 and picture.max() <= 1
    assert picture.std() > 0.1


@pytest.mark.parametrize(("weight_dtype", "dtype"), [
    ("fp8_e4m3fn", torch.float8_e4m3fn),
    ("fp8_e4m3fn_fast", torch.float8_e4m3fn),
    ("fp8_e5m2", torch.float8_e5m2),
])  # fmt: skip
def test_weights_rounded_to_eight_bits(
    files: FluxFiles, flux: Loaded, tiny_home: Path, weight_dtype: str, dtype: torch.dtype
) -> None:
    model = small_models.engine(tiny_home).load_transformer(files.transformer, weight_dtype)
    module: Any = model.transformer.network.module
    assert isinstance(module.img_in, CastLinear)
    original = load_file(files.transformer)["img_in.weight"]
    assert torch.equal(module.img_in.weight, original.to(dtype))
    assert torch.equal(module.img_in.bias, load_file(files.transformer)["img_in.bias"].to(dtype).float())
    difference = (small_models.latent((model, *flux[1:])) - small_models.latent(flux)).abs().mean()
    assert 0 < difference < 0.5


def test_an_eight_bit_file_stays_so(files: FluxFiles, flux: Loaded, tiny_home: Path, tmp_path: Path) -> None:
    rounded = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(files.transformer).items()}
    save_file(rounded, tmp_path / "fp8.safetensors")
    engine = small_models.engine(tiny_home)
    by_file = engine.load_transformer(tmp_path / "fp8.safetensors")
    by_choice = engine.load_transformer(files.transformer, "fp8_e4m3fn")
    module: Any = by_file.transformer.network.module
    assert module.img_in.weight.dtype == torch.float8_e4m3fn
    assert torch.equal(small_models.latent((by_file, *flux[1:])), small_models.latent((by_choice, *flux[1:])))


@pytest.mark.parametrize("newer", [False, True])
def test_scaled_eight_bit_files(files: FluxFiles, tiny_home: Path, tmp_path: Path, newer: bool) -> None:
    assert files.t5xxl is not None and files.clip_l is not None
    plain = load_file(files.t5xxl)
    path = tmp_path / "t5.safetensors"
    save_file(small_models.scaled_fp8(plain, newer=newer), path)
    tokenizers.beside(path).write_bytes(tokenizers.beside(files.t5xxl).read_bytes())
    read = dict(WeightFile.open(path).tensors())
    assert read.keys() == plain.keys()
    name = "encoder.block.0.layer.0.SelfAttention.v.weight"
    assert read[name].dtype == torch.float32
    assert (read[name] - plain[name].float()).abs().max() <= plain[name].abs().max() / 16
    engine = small_models.engine(tiny_home)
    tokens = engine.load_clip(files.clip_l, files.t5xxl).tokenize("a cat")
    exact, _ = engine.load_clip(files.clip_l, files.t5xxl).t5xxl.encode(tokens["t5xxl"])
    near, _ = engine.load_clip(files.clip_l, path).t5xxl.encode(tokens["t5xxl"])
    assert 0 < (exact - near).abs().mean() < 0.1


@pytest.mark.parametrize("kind", ["older scales", "newer scales", "all in one"])
def test_the_way_to_a_gpu_gives_the_same_weights(
    files: FluxFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    assert files.t5xxl is not None
    path, prefix = tmp_path / "x.safetensors", ""
    if kind == "all in one":
        path, prefix = small_models.all_in_one(files, path), "text_encoders.t5xxl.transformer."
    else:
        save_file(small_models.scaled_fp8(load_file(files.t5xxl), newer=kind == "newer scales"), path)
    plain = dict(WeightFile.open(path, prefix).tensors())
    with monkeypatch.context() as patch:
        patch.setattr(weights, "has_bus", lambda device: True)
        parallel = dict(WeightFile.open(path, prefix).tensors())
    assert list(plain) == list(parallel)
    assert all(plain[name].dtype == parallel[name].dtype for name in plain)
    assert all(torch.equal(plain[name].float(), parallel[name].float()) for name in plain)


def test_an_unknown_quantisation_is_refused(files: FluxFiles, tiny_home: Path, tmp_path: Path) -> None:
    tensors = load_file(files.transformer)
    tensors["img_in.comfy_quant"] = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(RylaError, match="nvfp4") as caught:
        small_models.engine(tiny_home).load_transformer(tmp_path / "x.safetensors")
    assert caught.value.code == "unsupported_weights"


def test_an_all_in_one_gives_the_same_picture(flux: Loaded, files: FluxFiles, tiny_home: Path, tmp_path: Path) -> None:
    path = small_models.all_in_one(files, tmp_path / "whole.safetensors")
    engine = small_models.engine(tiny_home)
    for whole in (engine.load_checkpoint(path), engine.load_flux(FluxFiles(path), "default")):
        latent = small_models.latent(whole)
        assert torch.equal(latent, small_models.latent(flux))
        assert torch.equal(whole[2].decode(latent), flux[2].decode(latent))
    model = engine.load_transformer(path)
    assert torch.equal(small_models.latent((model, *flux[1:])), small_models.latent(flux))


def test_a_transformer_as_comfyui_saves_it(flux: Loaded, files: FluxFiles, tiny_home: Path, tmp_path: Path) -> None:
    """The newer ModelSave calls the scale of a head's norm its weight."""
    saved = {name.replace("_norm.scale", "_norm.weight"): t for name, t in load_file(files.transformer).items()}
    assert len(saved.keys() & load_file(files.transformer).keys()) < len(saved)
    save_file(saved, tmp_path / "x.safetensors")
    model = small_models.engine(tiny_home).load_transformer(tmp_path / "x.safetensors")
    assert torch.equal(small_models.latent((model, *flux[1:])), small_models.latent(flux))


def test_text_encoders_in_either_order(flux: Loaded, files: FluxFiles, tiny_home: Path) -> None:
    assert files.clip_l and files.t5xxl
    swapped = small_models.engine(tiny_home).load_clip(files.t5xxl, files.clip_l)
    tokens = swapped.tokenize("a cat")
    assert torch.equal(swapped.encode(tokens)[0][0], flux[1].encode(tokens)[0][0])


def test_files_of_the_wrong_kind(files: FluxFiles, tiny_home: Path) -> None:
    engine = small_models.engine(tiny_home)
    assert files.vae and files.clip_l and files.t5xxl
    clip_l, vae = files.clip_l, files.vae
    wrong: list[Any] = [
        lambda: engine.load_transformer(vae),
        lambda: engine.load_vae(files.transformer),
        lambda: engine.load_clip(clip_l, clip_l),
        lambda: engine.load_clip(vae, clip_l),
        lambda: engine.load_checkpoint(files.transformer),
    ]
    for load in wrong:
        with pytest.raises(RylaError) as caught:
            load()
        assert caught.value.code == "wrong_model_kind"
        assert str(tiny_home) in caught.value.message


def test_a_truncated_file(files: FluxFiles, tiny_home: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(files.transformer.read_bytes()[:-1000])
    with pytest.raises(RylaError) as caught:
        small_models.engine(tiny_home).load_transformer(tmp_path / "cut.safetensors")
    assert caught.value.code == "truncated_file"


@pytest.mark.parametrize("change", ["missing", "mis-shaped", "width"])
def test_a_file_that_is_not_whole(files: FluxFiles, tiny_home: Path, tmp_path: Path, change: str) -> None:
    tensors = load_file(files.transformer)
    if change == "missing":
        del tensors["single_blocks.1.linear1.weight"]
    elif change == "mis-shaped":
        tensors["single_blocks.1.linear2.weight"] = torch.zeros(256, 99)
    else:
        tensors["img_in.weight"] = torch.zeros(200, 64)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(RylaError, match=r"x\.safetensors") as caught:
        small_models.engine(tiny_home).load_transformer(tmp_path / "x.safetensors")
    assert caught.value.code == ("unsupported_weights" if change == "width" else "incomplete_weights")


def test_an_unknown_weight_dtype(files: FluxFiles, tiny_home: Path) -> None:
    with pytest.raises(RylaError, match="bf17") as caught:
        small_models.engine(tiny_home).load_flux(files, "bf17")
    assert caught.value.code == "invalid_parameter"


def test_odd_latent_sizes(flux: Loaded) -> None:
    assert small_models.latent(flux, size=(72, 56)).shape == (1, 16, 7, 9)


def test_in_bfloat16_as_on_a_gpu(
    flux: Loaded, tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dtypes of the CUDA path, on the CPU: loading, prompts, a LoRA, every kind of sampler, the VAE."""
    monkeypatch.setattr(weights, "best", lambda: weights.Placement(torch.device("cpu"), torch.bfloat16))
    model, clip, vae = small_models.load(tiny_home)
    assert {parameter.dtype for parameter in model.transformer.network.module.parameters()} == {torch.bfloat16}
    patched = lora.apply(model, clip, small_models.kohya(tmp_path / "x.safetensors", clip=True), 0.5, 0.5)
    for sampler in ("euler", "dpmpp_2m_sde"):
        near, exact = (small_models.latent(loaded, sampler_name=sampler) for loaded in ((model, clip, vae), flux))
        assert near.dtype == torch.float32
        assert torch.corrcoef(torch.stack((near.flatten(), exact.flatten())))[0, 1] > 0.999
        assert not torch.equal(small_models.latent((patched.model, patched.clip, vae), sampler_name=sampler), near)
    assert vae.decode(near).dtype == torch.float32
