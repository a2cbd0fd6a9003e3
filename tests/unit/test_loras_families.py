"""Ambiguous evidence is no proof: layers that fit several families, and what decides among them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import lora_files
import pytest
from lora_files import Layer, Tensors
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import check, families
from ryla_nodes.loras.check import LoraResult
from ryla_nodes.loras.inspect import LoraInfo, inspect
from ryla_nodes.loras.store import LoraStore

W = 3072


def attention(blocks: Iterable[int]) -> list[Layer]:
    """What FLUX.1, FLUX.2 klein, Chroma, HunyuanVideo and Qwen-Image call alike, in diffusers' names."""
    return [(f"transformer_blocks.{n}.attn.{to}", W, W) for n in blocks for to in ("to_q", "to_k", "to_v", "to_out.0")]


def fused(blocks: Iterable[int]) -> list[Layer]:
    """The same in the original names."""
    parts = (("qkv", 3 * W), ("proj", W))
    return [(f"double_blocks.{n}.{s}_attn.{x}", out, W) for n in blocks for s in ("img", "txt") for x, out in parts]


KLEIN = {"transformer.r": 2, "transformer.base_model_name_or_path": "black-forest-labs/FLUX.2-klein-base-4B"}
AIT = {name: value for name, value in lora_files.AI_TOOLKIT.items() if name != "ss_base_model_version"}
# Layers, metadata, the family that the file was trained for.
TOLD: dict[str, tuple[Tensors, dict[str, str], str]] = {
    "klein in diffusers' names": (
        lora_files.peft(attention(range(5))), {"lora_adapter_metadata": json.dumps(KLEIN)}, "flux2"),
    "klein by ai-toolkit": (
        lora_files.peft(fused(range(5)), "diffusion_model."), {**AIT, "ss_base_model_version": "flux2_klein_4b"},
        "flux2"),
    "some blocks of Qwen-Image": (
        lora_files.peft(attention(range(10, 19)), "diffusion_model."), {**AIT, "ss_base_model_version": "qwen_image"},
        "qwen-image"),
    # Further ones.
    "Chroma by kohya": (
        lora_files.kohya(fused(range(19))), {"ss_base_model_version": "chroma", "ss_network_module":
                                             "networks.lora_flux"}, "chroma"),
    "Chroma by its architecture": (
        lora_files.kohya(fused(range(3))), {"modelspec.architecture": "chroma/lora"}, "chroma"),
    "HunyuanVideo by musubi": (
        lora_files.kohya(fused(range(12))), {"ss_base_model_version": "hunyuan_video"}, "hunyuan-video"),
    "HunyuanVideo, first blocks": (
        lora_files.kohya(fused(range(4))), {"modelspec.architecture": "hunyuan-video/lora"}, "hunyuan-video"),
    "klein by OneTrainer": (
        lora_files.kohya(attention(range(3)), "lora_transformer_"),
        {"ot_branch": "master", "ot_config": json.dumps({"model_type": "FLUX_2"})}, "flux2"),
    "klein by musubi's network": (
        lora_files.kohya(fused(range(5))), {"ss_network_module": "networks.lora_flux_2"}, "flux2"),
    "FLUX.1 by ai-toolkit": (
        lora_files.peft(attention(range(5))), {**AIT, "ss_base_model_version": "flux.1_kontext"}, "flux"),
    "FLUX.1 by its file": (
        lora_files.kohya(fused(range(5))), {"ss_sd_model_name": "flux1-dev.safetensors"}, "flux"),
    "Stable Diffusion 2 by kohya": (
        lora_files.kohya([("down_blocks.0.attentions.0.proj_in", 320, 320)]), {"ss_base_model_version": "sd_v2_768_v"},
        "sd2"),
    "Lumina 2, widths unknown": (
        lora_files.lycoris("oft", [("layers.0.attention.qkv", 16, 16)]), {"ss_base_model_version": "lumina2"},
        "lumina2"),
}  # fmt: skip


def made(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> LoraInfo:
    return inspect(lora_files.write(folder / "x.safetensors", tensors, metadata))


@pytest.mark.parametrize("name", TOLD)
def test_where_layers_fit_several_families_the_metadata_decides(tmp_path: Path, name: str) -> None:
    tensors, metadata, family = TOLD[name]
    assert len(made(tmp_path / "silent", tensors).possible_families) > 1, "the layers alone do not tell"
    info = made(tmp_path / "told", tensors, metadata)
    assert (info.family, info.possible_families) == (family, (family,))
    assert info.family_source.startswith("metadata ")
    check.require_family(info, family)
    other = "flux" if family != "flux" else "qwen-image"
    with pytest.raises(RylaError) as raised:
        check.require_family(info, other)
    assert raised.value.code == "lora_wrong_family"


@pytest.mark.parametrize("family", ["flux", "flux2", "chroma", "hunyuan-video", "qwen-image"])
def test_where_nothing_decides_no_relative_is_refused_and_the_report_says_so(tmp_path: Path, family: str) -> None:
    info = made(tmp_path, lora_files.peft(attention(range(4))))
    check.require_family(info, family)
    assert info.family_source == ""
    report = check.report(LoraStore([tmp_path]).find("x"), info, LoraResult(None, None, 16, 0, ()), 1.0)
    for title in ("FLUX.1", "FLUX.2", "Chroma", "HunyuanVideo", "Qwen-Image", "nothing in the file says which"):
        assert title in report
    with pytest.raises(RylaError):
        check.require_family(info, "sdxl")


@pytest.mark.parametrize(
    ("layers", "family"),
    [
        (lora_files.flux(), "flux"),  # FLUX.1 alone has modulation in each block under these names.
        (lora_files.FLUX2_KLEIN, "flux2"),  # A gated MLP.
        ([*fused(range(2)), ("double_blocks.0.img_mlp.fc1", 4 * W, W)], "hunyuan-video"),
        (lora_files.QWEN, "qwen-image"),
        (attention([0, 59]), "qwen-image"),  # No other has so many blocks.
        (lora_files.SD3, "sd3"),
        (lora_files.CHROMA, "chroma"),
    ],
)
def test_layers_that_only_one_family_has_are_proof_whatever_the_metadata_says(
    tmp_path: Path, layers: list[Layer], family: str
) -> None:
    wrong = "sdxl_base_v1-0" if family != "sdxl" else "flux1"
    info = made(tmp_path, lora_files.peft(layers, "diffusion_model."), {"ss_base_model_version": wrong})
    assert (info.family, info.family_source) == (family, "layers")
    assert any("ss_base_model_version says SDXL, its layers are those of" in note for note in info.notes)


def test_all_blocks_of_flux_in_diffusers_names_are_proof_enough(tmp_path: Path) -> None:
    whole = lora_files.flux_diffusers(double=range(19), single=range(38))
    assert made(tmp_path, lora_files.peft(whole)).possible_families == ("flux",)


def test_an_architecture_that_is_not_known_here_is_not_called_flux(tmp_path: Path) -> None:
    info = made(tmp_path, lora_files.peft(attention(range(8))), {"ss_base_model_version": "longcat_image"})
    assert (info.family, info.possible_families) == ("unknown", ())
    check.require_family(info, "flux")  # Then the matched weights are the only check, and the report says so.
    report = check.report(LoraStore([tmp_path]).find("x"), info, LoraResult(None, None, 16, 0, ()), 1.0)
    assert "'longcat_image', which is none that is known here" in report and "family is not known" in report


@pytest.mark.parametrize("name", ["x.json", "x.civitai.info", "x.cm-info.json"])
def test_a_sidecar_can_say_what_the_file_does_not(tmp_path: Path, name: str) -> None:
    field = {"x.json": "base_model", "x.civitai.info": "baseModel", "x.cm-info.json": "BaseModel"}[name]
    tensors = lora_files.peft(attention(range(4)))
    (tmp_path / name).write_text(json.dumps({field: "Flux.2 Klein 4B"}))
    info = made(tmp_path, tensors, {"ss_sd_model_name": "flux1-dev.safetensors"})
    assert (info.family, info.family_source, info.base_model) == ("flux2", name, "Flux.2 Klein 4B")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("Flux.1 D", "flux"),
        ("Flux.2 Klein 9B", "flux2"),
        ("flux_2_dev", "flux2"),
        ("FLUX_DEV_1", "flux"),
        ("flux-2024-merge", "flux"),
        ("flex2", "flux"),
        ("Illustrious", "sdxl"),
        ("Pony", "sdxl"),
        ("Pony V7", "unknown"),
        ("STABLE_DIFFUSION_XL_10_BASE", "sdxl"),
        ("STABLE_DIFFUSION_15", "sd15"),
        ("stable-diffusion-3-5-large", "sd3"),
        ("hunyuan-image-2.1", "hunyuan-image"),
        ("Hunyuan 1", "unknown"),
        ("zeta_chroma", "unknown"),
        ("Qwen/Qwen2.5-7B-Instruct", "unknown"),
        ("Taiwan street style", "unknown"),
        ("wan22_14b", "wan"),
        ("ZImageTurbo", "z-image"),
        ("krea2", "unknown"),
    ],
)
def test_names_of_trainers_and_sites(text: str, family: str) -> None:
    assert families.from_text(text) == family


def test_every_family_has_a_title() -> None:
    assert set(families.TITLES) == set(families.FAMILIES)
