"""RYLA_LoraLoader beside core's LoraLoader in a real ComfyUI, on a FLUX.1 transformer of the true widths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lora_files
import numpy as np
import pytest
from comfyui import true_width
from comfyui.conftest import StartComfyUI
from comfyui.process import ComfyUI

PROBE = Path(__file__).parent / "packs" / "ryla_test_probe.py"
STD = 0.1
KOHYA = lora_files.kohya(lora_files.flux(), std=STD)
FORMATS = {
    "kohya": (KOHYA, lora_files.KOHYA_FLUX, "ohwx woman"),
    "diffusers": (lora_files.peft(lora_files.flux_diffusers(), std=STD), {}, ""),
    "ai-toolkit": (lora_files.peft(lora_files.flux_diffusers(), std=STD), lora_files.AI_TOOLKIT, "ohwx"),
}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume whose only model is the true-width transformer, with a LoRA in each format."""
    volume = tmp_path_factory.mktemp("volume")
    true_width.write(volume / "diffusion_models" / "flux1-dev.safetensors")
    for name, (tensors, metadata, _) in FORMATS.items():
        lora_files.write(volume / "loras" / f"character-{name}.safetensors", tensors, metadata)
    return volume


@pytest.fixture
def server(start_comfyui: StartComfyUI, volume: Path) -> ComfyUI:
    return start_comfyui(packs=(PROBE,), environ={"RYLA_VOLUME": str(volume)})


def graph(lora: dict[str, Any] | None, picture: bool = True) -> dict[str, Any]:
    """One step at 64x64 with the model as ``lora`` patches it, or unpatched; only the patching without ``picture``."""
    nodes = {
        "unet": ("UNETLoader", {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}),
        "text": ("RYLATest_Conditioning", {"seed": 1}),
        "size": ("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "sampler": ("KSampler", {
            "model": ["lora" if lora else "unet", 0], "positive": ["text", 0], "negative": ["text", 0],
            "latent_image": ["size", 0], "seed": 3, "steps": 1, "cfg": 1.0, "sampler_name": "euler",
            "scheduler": "simple", "denoise": 1.0}),
        "digest": ("RYLATest_Digest", {"samples": ["sampler", 0]}),
    }  # fmt: skip
    wanted = nodes if picture else {"unet": nodes["unet"]}
    api = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in wanted.items()}
    if lora:
        api |= {"lora": lora, "patches": {"class_type": "RYLATest_Patches", "inputs": {"model": ["lora", 0]}}}
        if lora["class_type"] == "RYLA_LoraLoader":
            api["patches"]["inputs"]["report"] = ["lora", 3]
    return api


def ours(lora_id: str, strength: float, **inputs: Any) -> dict[str, Any]:
    fields = {"model": ["unet", 0], "lora_id": lora_id, "strength": strength, "on_missing": "error", **inputs}
    return {"class_type": "RYLA_LoraLoader", "inputs": fields}


def core(lora_id: str, strength: float) -> dict[str, Any]:
    name = f"character-{lora_id}.safetensors"
    fields = {"model": ["unet", 0], "lora_name": name, "strength_model": strength}
    return {"class_type": "LoraLoaderModelOnly", "inputs": fields}


def matched(report: str) -> int:
    found = re.search(r"matched (\d+) weights of the model", report)
    assert found, report
    return int(found[1])


@pytest.mark.parametrize("name", FORMATS)
def test_a_lora_is_applied_bit_for_bit_as_core_applies_it(server: ComfyUI, name: str) -> None:
    seen = {0: server.succeed(graph(None))["digest"]["sha256"][0]}
    for strength in (1, -1):
        own, reference = (server.succeed(graph(node(name, strength))) for node in (ours, core))
        assert own["digest"] == reference["digest"]
        assert own["digest"]["std"][0] > 0
        assert own["patches"]["model"] == reference["patches"]["model"]
        assert matched(own["patches"]["report"][0]) == reference["patches"]["model"][0] > 0
        seen[strength] = own["digest"]["sha256"][0]
    assert len(set(seen.values())) == 3
    without = server.succeed(graph(ours(name, 0)))
    assert without["digest"]["sha256"][0] == seen[0], "strength 0 changes the picture"
    assert without["patches"]["model"] == [0]


def test_every_key_of_these_files_matches(server: ComfyUI) -> None:
    pairs = {
        name: sum(key.endswith((".lora_down.weight", ".lora_A.weight")) for key in FORMATS[name][0]) for name in FORMATS
    }
    for name, count in pairs.items():
        report = server.succeed(graph(ours(name, 1), picture=False))["patches"]["report"][0]
        assert matched(report) == count
        assert "matched nothing" not in report


def test_a_partial_match_is_reported_by_key(server: ComfyUI, volume: Path) -> None:
    beyond = lora_files.kohya(lora_files.flux(blocks=2), std=STD)
    lora_files.write(volume / "loras" / "partial.safetensors", beyond, lora_files.KOHYA_FLUX)
    report = server.succeed(graph(ours("partial", 1), picture=False))["patches"]["report"][0]
    assert matched(report) == len(KOHYA) // 3
    assert f"{len(beyond) - len(KOHYA)} keys of the file matched nothing, such as lora_unet_double_blocks_1_" in report


def test_a_file_added_and_replaced_after_the_start_is_seen(server: ComfyUI, volume: Path) -> None:
    path = volume / "loras" / "late.safetensors"
    lora_files.write(path, KOHYA, lora_files.KOHYA_FLUX)
    first = server.succeed(graph(ours("late", 1)))["digest"]
    lora_files.write(path, {key: np.asarray(value * 2) for key, value in KOHYA.items()}, lora_files.KOHYA_FLUX)
    assert server.succeed(graph(ours("late", 1)))["digest"] != first


def test_an_empty_id_passes_through(server: ComfyUI) -> None:
    outputs = server.succeed(graph(ours(" ", 1), picture=False))
    assert outputs["patches"] == {"model": [0], "clip": [0], "report": ["No LoRA: lora_id is empty."]}


def test_a_missing_id_is_an_error_or_passes_through_as_asked(server: ComfyUI, volume: Path) -> None:
    answer = server.submit(graph(ours("koyha", 1), picture=False))
    assert answer.status_code == 400
    details = answer.json()["node_errors"]["lora"]["errors"][0]["details"]
    assert str(volume / "loras") in details
    assert "kohya" in details
    outputs = server.succeed(graph(ours("koyha", 1, on_missing="pass"), picture=False))
    assert "koyha" in outputs["patches"]["report"][0]
    assert outputs["patches"]["model"] == [0]


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("sdxl", lora_files.kohya(lora_files.SDXL), ("SDXL", "FLUX")),
        (
            "nothing",
            lora_files.kohya(lora_files.flux(blocks=2)[len(lora_files.flux()) :]),
            ("No weight", "FLUX", "lora_unet_double_blocks_1"),
        ),
        ("nan", {**KOHYA, next(iter(KOHYA)): np.full_like(next(iter(KOHYA.values())), np.nan)}, ("NaN", "lora_unet_")),
        ("text", lora_files.kohya(lora_files.CLIP_L, "lora_te1_"), ("text encoders", "CLIP")),
    ],
)
def test_a_lora_that_would_do_nothing_or_harm_is_refused(
    server: ComfyUI, volume: Path, name: str, tensors: lora_files.Tensors, words: tuple[str, ...]
) -> None:
    lora_files.write(volume / "loras" / f"bad-{name}.safetensors", tensors)
    error = server.fail(graph(ours(f"bad-{name}", 1), picture=False))
    for word in words:
        assert word in error["exception_message"]


def test_a_strength_out_of_range_is_refused_before_the_job(server: ComfyUI) -> None:
    answer = server.submit(graph(ours("kohya", 2.5), picture=False))
    assert answer.status_code == 400
    assert answer.json()["node_errors"]["lora"]["errors"][0]["type"] == "value_bigger_than_max"
