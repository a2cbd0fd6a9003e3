"""The adapter's maths and files, on the shipped adapter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ryla_nodes.errors import RylaError
from ryla_nodes.identity import adapter as adapters
from ryla_nodes.identity.adapter import Adapter, resample
from ryla_nodes.identity.attention import LAYERS, IdentityTerm, Window, token_grid, token_mask
from ryla_nodes.identity.face_file import FaceIdentity
from ryla_nodes.models import shipped
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
CONTEXT, RESAMPLER = 128, 128
"""Widths of the shipped adapter's tokens, and of its Resampler."""


@pytest.fixture(scope="module")
def weights() -> Weights:
    loaded = load_file(shipped.path("ryla-paint-ip-adapter"))
    return {name: tensor.half() for name, tensor in loaded.items()}


@pytest.fixture
def path(weights: Weights, tmp_path: Path) -> Path:
    save_file(weights, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def face(count: int = 1, combine: str = "mean", seed: int = 0) -> FaceIdentity:
    return FaceIdentity(20 * np.random.default_rng(seed).standard_normal((count, 512)).astype(np.float32), combine)


def groups(weights: Weights) -> dict[str, Weights]:
    parts: dict[str, Weights] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in weights.items():
        group, _, rest = name.partition(".")
        parts[group][rest] = tensor.clone()
    return parts


def test_the_layers_are_diffusers_cross_attention_in_the_order_of_its_files() -> None:
    """diffusers lists processors down, up, mid, self-attention even and cross-attention odd: the file's numbers."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from ryla_nodes.engines.embedded.inference.sdxl import shared_config

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            **shared_config((320, 640, 1280), 2048, 2816),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )
    names = list(unet.attn_processors)
    assert len(names) == 140
    blocks = {"down_blocks.1": ("input", 4), "down_blocks.2": ("input", 7), "up_blocks.0": ("output", 0)}
    blocks |= {"up_blocks.1": ("output", 3), "mid_block": ("middle", 0)}
    for position, key in enumerate(LAYERS):
        name = names[2 * position + 1]
        assert ".attn2." in name
        block, first = next(place for prefix, place in blocks.items() if name.startswith(prefix))
        attention = int(name.split("attentions.")[1].split(".")[0])
        depth = int(name.split("transformer_blocks.")[1].split(".")[0])
        assert tuple(key) == (block, first + attention, depth)


def test_the_pickle_and_safetensors_forms_are_one(weights: Weights, path: Path, tmp_path: Path) -> None:
    torch.save(groups(weights), tmp_path / "ip-adapter.bin")
    one, other = (Adapter(p).identity(face(), 0.0, torch.float32) for p in (path, tmp_path / "ip-adapter.bin"))
    assert torch.equal(one.cond, other.cond)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True))


def test_keys_and_values_are_the_projections_of_the_tokens(weights: Weights, path: Path) -> None:
    identity = Adapter(path).identity(face(), 0.0, torch.float32)
    assert identity.cond.shape == (1, 16, CONTEXT)
    zeros = resample(groups(weights)["image_proj"], torch.zeros(1, 1, 512))
    assert torch.allclose(identity.uncond, zeros)
    for position in (0, 17, 43, 69):
        expected = identity.cond @ weights[f"ip_adapter.{2 * position + 1}.to_v_ip.weight"].float().T
        assert torch.allclose(identity.layers[position].cond_v, expected, atol=1e-5)


def test_concatenated_photos_are_attended_to_together(path: Path) -> None:
    photos = face(3)
    mean = Adapter(path).identity(photos, 0.0, torch.float32)
    concat = Adapter(path).identity(FaceIdentity(photos.embeddings, "concat"), 0.0, torch.float32)
    assert concat.cond.shape == mean.cond.shape
    assert not torch.allclose(concat.cond, mean.cond, atol=1e-2)


def test_noise_is_repeatable_and_leaves_the_global_generator_alone(path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = (Adapter(path).identity(face(), 0.35, torch.float32).uncond for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, Adapter(path).identity(face(), 0.0, torch.float32).uncond)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_face_is_computed_once(path: Path) -> None:
    adapter = Adapter(path)
    first = adapter.identity(face(), 0.35, torch.float16)
    assert adapter.identity(face(), 0.35, torch.float16) is first
    assert adapter.runs == 1
    adapter.identity(face(seed=1), 0.35, torch.float16)
    assert adapter.runs == 2
    assert first.layers[0].cond_k.dtype == torch.float16


def test_no_weight_stays_behind(path: Path) -> None:
    import gc

    adapter = Adapter(path)
    adapter.identity(face(), 0.0, torch.float16)
    gc.collect()
    shape = (4 * RESAMPLER, RESAMPLER)
    held = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.shape == shape and t.dtype == torch.float16]
    # The module's fixture holds one of each layer; the adapter none.
    assert len(held) <= 4


@pytest.mark.parametrize("kind", ["other", "plus", "short", "junk", "list", "cut"])
def test_files_of_another_kind_are_refused_before_anything_runs(kind: str, weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    if kind == "other":
        save_file({"weight": torch.zeros(2)}, path)
    elif kind == "plus":  # IP-Adapter Plus: a Resampler over CLIP's 1280.
        save_file({**weights, "image_proj.proj_in.weight": torch.zeros(128, 1280)}, path)
    elif kind == "short":
        save_file({name: tensor for name, tensor in weights.items() if "139.to_v" not in name}, path)
    elif kind == "cut":
        save_file(weights, path)
        path.write_bytes(path.read_bytes()[:100_000])
    else:
        path = tmp_path / "ip-adapter.bin"
        path.write_bytes(b"not a pickle") if kind == "junk" else torch.save([torch.zeros(2)], path)
    with pytest.raises(RylaError, match=path.name) as caught:
        Adapter(path)
    assert caught.value.code == ("unreadable_model" if kind in ("junk", "cut") else "wrong_adapter")


class Payload:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("executed",))


def test_a_pickle_with_code_in_it_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"image_proj": Payload()}, tmp_path / "ip-adapter.bin")
    with pytest.raises(RylaError) as caught:
        Adapter(tmp_path / "ip-adapter.bin")
    assert caught.value.code == "unreadable_model"
    assert "executed" not in capsys.readouterr().out


def test_a_file_of_the_published_size_must_be_the_published_one(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ip-adapter.bin"
    torch.save(groups(weights), path)
    published = adapters.catalogue.load().get(adapters.CATALOGUE_ID)
    same_size = dataclasses.replace(published, size=path.stat().st_size)
    monkeypatch.setattr(adapters.catalogue.Catalogue, "get", lambda self, name: same_size)
    with pytest.raises(RylaError, match="sha256") as caught:
        Adapter(path)
    assert caught.value.code == "hash_mismatch"


def test_the_term_is_the_formula_in_every_half_and_precision(path: Path) -> None:
    identity = Adapter(path).identity(face(), 0.35, torch.float32)
    kv, generator = identity.layers[69], torch.Generator().manual_seed(0)
    q = torch.randn(4, 12, 64, generator=generator)
    term = IdentityTerm(kv, 0.7, None)
    out = term(q, (1, 0), 2, (6, 8))
    for row, (k, v) in enumerate([(kv.uncond_k, kv.uncond_v)] * 2 + [(kv.cond_k, kv.cond_v)] * 2):
        for head in range(2):
            part = slice(32 * head, 32 * head + 32)
            weights = torch.softmax(q[row, :, part] @ k[0, :, part].T / 32**0.5, dim=-1)
            assert torch.allclose(out[row, :, part], 0.7 * weights @ v[0, :, part], atol=1e-5)
    # A half-precision model with a single-precision adapter.
    half = IdentityTerm(kv, 0.7, None)(q.half(), (1, 0), 2, (6, 8))
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), out, atol=0.02)


def test_the_mask_is_laid_over_each_layers_grid(path: Path) -> None:
    assert token_grid(64 * 64, 127, 127) == (64, 64)
    assert token_grid(32 * 20, 127, 80) == (32, 20)
    with pytest.raises(RylaError) as caught:
        token_grid(1000, 127, 127)
    assert caught.value.code == "mask_grid"
    left = torch.zeros(1, 48, 64)
    left[..., :32] = 1
    tokens = token_mask(left, 6 * 8, (12, 16), 4)
    assert tokens.shape == (4, 48, 1)
    grid = tokens[3, :, 0].reshape(6, 8)
    assert torch.all(grid[:, :3] > 0.99) and torch.all(grid[:, 5:] < 0.01)
    term = IdentityTerm(Adapter(path).identity(face(), 0.0, torch.float32).layers[69], 1.0, left)
    out = term(torch.randn(1, 48, 64), (0,), 2, (12, 16)).reshape(6, 8, 64)
    assert torch.all(out[:, 6:] == 0) and torch.all(out[:, :2].abs().sum(-1) > 0)


def test_the_window_reads_each_steps_sigma_once() -> None:
    window = Window(10.0, 1.0)
    assert [window.contains(torch.tensor([s])) for s in (14.0, 10.0, 5.0, 1.0, 0.5)] == [False, True, True, True, False]
    sigmas = torch.tensor([5.0])
    assert window.contains(sigmas)
    sigmas.fill_(100.0)
    assert window.contains(sigmas)
