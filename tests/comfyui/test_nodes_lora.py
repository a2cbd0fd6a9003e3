"""RYLA_LoraLoader beside core's LoraLoader in a real ComfyUI, on a FLUX.1 transformer of the true widths."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import lora_files
import numpy as np
import pytest
from comfyui import true_width
from comfyui.conftest import StartComfyUI
from comfyui.process import ComfyUI
from ryla_nodes.errors import RylaError

PROBE = Path(__file__).parent / "packs" / "ryla_test_probe.py"
STD = 0.1
KOHYA = lora_files.kohya(lora_files.flux(), std=STD)
FORMATS = {
    "kohya": (KOHYA, lora_files.KOHYA_FLUX, "ohwx woman"),
    "diffusers": (lora_files.peft(lora_files.flux_diffusers(), std=STD), {}, ""),
    "ai-toolkit": (lora_files.peft(lora_files.flux_diffusers(), std=STD), lora_files.AI_TOOLKIT, "ohwx"),
}
LYCORIS = {kind: lora_files.lycoris(kind, lora_files.flux(), std=STD) for kind in ("lokr", "loha")}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume whose only model is the true-width transformer, with a LoRA in each format."""
    volume = tmp_path_factory.mktemp("volume")
    true_width.write(volume / "diffusion_models" / "flux1-dev.safetensors")
    for name, (tensors, metadata, _) in FORMATS.items():
        lora_files.write(volume / "loras" / f"character-{name}.safetensors", tensors, metadata)
    for kind, tensors in LYCORIS.items():
        lora_files.write(volume / "loras" / f"character-{kind}.safetensors", tensors)
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


def ours(lora_id: str, strength: object, **inputs: Any) -> dict[str, Any]:
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


def test_two_loras_in_one_id_are_two_core_loaders_in_a_row(server: ComfyUI, volume: Path) -> None:
    api = graph(core("ai-toolkit", 0.5))
    api["first"] = core("kohya", -0.4)
    api["lora"]["inputs"]["model"] = ["first", 0]
    reference, own = server.succeed(api), server.succeed(graph(ours("kohya*-0.8+ai-toolkit", 0.5)))
    assert own["digest"] == reference["digest"]
    report = own["patches"]["report"][0].split("\n")
    assert report[0] == "kohya*-0.8+ai-toolkit: 2 LoRAs, one after the other"
    assert [line.partition(":")[0] for line in report if "strength" in line] == ["kohya", "ai-toolkit"]
    single = server.succeed(graph(ours("kohya", -0.4)))
    assert own["digest"] != single["digest"]
    lora_files.write(volume / "loras" / "kohya+ai-toolkit.safetensors", *FORMATS["kohya"][:2])
    whole = server.succeed(graph(ours("kohya+ai-toolkit", -0.4)))
    assert whole["digest"] == single["digest"]


def test_the_part_of_an_id_that_is_wrong_is_named(server: ComfyUI) -> None:
    for lora_id, word in (("kohya+nobody", "'nobody'"), ("kohya*x+diffusers", "'kohya*x'"), ("kohya+", "part 2")):
        assert word in refused(server, ours(lora_id, 1)).message
    outputs = server.succeed(graph(ours("nobody+kohya", 1, on_missing="pass"), picture=False))
    assert "'nobody' was not found" in outputs["patches"]["report"][0]
    assert matched(outputs["patches"]["report"][0]) == outputs["patches"]["model"][0]
    error = RylaError.parse(server.fail(graph(ours("kohya*9", 1), picture=False))["exception_message"])
    assert error is not None and "the strength of 'kohya' is 9.0" in error.message


@pytest.mark.parametrize("kind", LYCORIS)
def test_lycoris_kinds_are_applied_bit_for_bit_as_core_applies_them(server: ComfyUI, kind: str) -> None:
    plain = server.succeed(graph(None))["digest"]["sha256"][0]
    own, reference = (server.succeed(graph(node(kind, 1))) for node in (ours, core))
    assert own["digest"] == reference["digest"]
    assert own["digest"]["sha256"][0] != plain
    assert own["patches"]["model"] == reference["patches"]["model"] == [len(lora_files.flux())]
    report = own["patches"]["report"][0]
    assert matched(report) == len(lora_files.flux())
    assert f"kohya {kind}" in report and "matched nothing" not in report


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


def test_layers_of_another_size_count_as_unmatched(server: ComfyUI, volume: Path) -> None:
    fitting, small = lora_files.flux()[:3], lora_files.flux(256)[3:]
    tensors = lora_files.kohya(fitting, std=STD) | lora_files.kohya(small, std=STD)
    lora_files.write(volume / "loras" / "character-sizes.safetensors", tensors)
    own, reference = (server.succeed(graph(node("sizes", 1))) for node in (ours, core))
    assert own["digest"] == reference["digest"]
    report = own["patches"]["report"][0]
    assert matched(report) == own["patches"]["model"][0] == len(fitting)
    assert f"{3 * len(small)} keys of the file matched nothing, such as lora_unet_double_blocks_0_" in report


def test_a_file_added_and_replaced_after_the_start_is_seen(server: ComfyUI, volume: Path) -> None:
    path = volume / "loras" / "late.safetensors"
    lora_files.write(path, KOHYA, lora_files.KOHYA_FLUX)
    first = server.succeed(graph(ours("late", 1)))["digest"]
    lora_files.write(path, {key: np.asarray(value * 2) for key, value in KOHYA.items()}, lora_files.KOHYA_FLUX)
    assert server.succeed(graph(ours("late", 1)))["digest"] != first


def test_the_history_tells_report_and_prompt_of_a_repeated_job_too(server: ComfyUI) -> None:
    api = graph(ours("ai-toolkit", 1), picture=False)
    fields = {"text": "a portrait", "trigger": ["lora", 2]}
    api["prompt"] = {"class_type": "RYLA_Prompt", "inputs": fields, "_meta": {"title": "Prompt"}}
    api["patches"]["inputs"]["report"] = ["prompt", 0]
    first, again = server.run(api), server.run(api)
    assert "lora" in dict(again["status"]["messages"])["execution_cached"]["nodes"]
    for entry in (first, again):
        assert entry["outputs"]["prompt"]["text"] == ["ohwx, a portrait"]
        assert "trigger word 'ohwx' (from metadata ss_tag_frequency)" in entry["outputs"]["lora"]["text"][0]


def test_an_empty_id_passes_through(server: ComfyUI) -> None:
    outputs = server.succeed(graph(ours(" ", 1), picture=False))
    assert outputs["patches"] == {"model": [0], "clip": [0], "report": ["No LoRA: lora_id is empty."]}


def refused(server: ComfyUI, lora: dict[str, Any]) -> RylaError:
    """What the node says to a job that it refuses before it is queued, as a client reads it."""
    answer = server.submit(graph(lora, picture=False))
    assert answer.status_code == 400
    errors = [RylaError.parse(each["details"]) for each in answer.json()["node_errors"]["lora"]["errors"]]
    # ComfyUI repeats it for each input that the check looks at.
    assert len({str(error).partition(" - ")[2] for error in errors}) == 1
    assert errors[0] is not None
    return errors[0]


def test_a_missing_id_is_an_error_or_passes_through_as_asked(server: ComfyUI, volume: Path) -> None:
    error = refused(server, ours("koyha", 1))
    assert error.code == "lora_not_found"
    assert str(volume / "loras") in error.message
    assert "kohya" in error.message
    assert error.hint == "ryla loras list"
    outputs = server.succeed(graph(ours("koyha", 1, on_missing="pass"), picture=False))
    assert "koyha" in outputs["patches"]["report"][0]
    assert outputs["patches"]["model"] == [0]


@pytest.mark.parametrize(
    ("lora_id", "code"),
    [
        ("kohya,diffusers", "invalid_lora_id"),
        ("../flux1-dev", "invalid_lora_id"),
        ("/etc/passwd", "invalid_lora_id"),
        ("kohya\x00", "invalid_lora_id"),
        ("bad-old.pt", "lora_pickle"),
        ("bad-old", "lora_pickle"),
        ("bad-empty", "empty_file"),
        ("bad-cut", "truncated_file"),
        ("bad-model", "not_a_lora"),
        ("bad-sidecar", "invalid_sidecar"),
        ("bad-link", "lora_outside_folders"),
    ],
)
def test_an_id_or_a_file_that_is_no_good_is_refused_before_the_job(
    server: ComfyUI, volume: Path, lora_id: str, code: str
) -> None:
    loras = volume / "loras"
    (loras / "bad-old.pt").write_bytes(pickle.dumps({}))
    (loras / "bad-empty.safetensors").touch()
    (loras / "bad-cut.safetensors").write_bytes((loras / "character-kohya.safetensors").read_bytes()[:-100])
    lora_files.small(loras / "bad-sidecar.safetensors")
    (loras / "bad-sidecar.json").write_text("{")
    lora_files.write(loras / "bad-model.safetensors", {"img_in.weight": np.zeros((3, 1), np.float32)})
    if not (loras / "bad-link.safetensors").is_symlink():
        outside = lora_files.small(volume.parent / f"{volume.name}-outside.safetensors")
        (loras / "bad-link.safetensors").symlink_to(outside)
    for on_missing in ("error", "pass"):
        error = refused(server, ours(lora_id, 1, on_missing=on_missing))
        assert error.code == code
        assert error.hint


@pytest.mark.parametrize(
    ("name", "tensors", "code", "words"),
    [
        ("sdxl", lora_files.kohya(lora_files.SDXL), "lora_wrong_family", ("SDXL", "FLUX")),
        (
            "nothing",
            lora_files.kohya(lora_files.flux(blocks=2)[len(lora_files.flux()) :]),
            "lora_matches_nothing",
            ("No weight", "FLUX", "lora_unet_double_blocks_1"),
        ),
        (
            "nan",
            {**KOHYA, next(iter(KOHYA)): np.full_like(next(iter(KOHYA.values())), np.nan)},
            "lora_not_finite",
            ("NaN", "lora_unet_"),
        ),
        (
            "text",
            lora_files.kohya(lora_files.CLIP_L, "lora_te1_"),
            "lora_matches_nothing",
            ("text encoders", "CLIP"),
        ),
        ("small", lora_files.kohya(lora_files.flux(256), std=STD), "lora_wrong_size", ("another size", "lora_unet_")),
        (
            "small lokr",
            lora_files.lycoris("lokr", lora_files.flux(256), std=STD),
            "lora_wrong_size",
            ("another size", "lora_unet_"),
        ),
    ],
)
def test_a_lora_that_would_do_nothing_or_harm_is_refused(
    server: ComfyUI, volume: Path, name: str, tensors: lora_files.Tensors, code: str, words: tuple[str, ...]
) -> None:
    lora_files.write(volume / "loras" / f"bad-{name}.safetensors", tensors)
    text = server.fail(graph(ours(f"bad-{name}", 1), picture=False))["exception_message"]
    error = RylaError.parse(text)
    assert error is not None and error.code == code
    for word in words:
        assert word in error.message


def test_a_strength_out_of_range_is_refused_before_the_job(server: ComfyUI) -> None:
    answer = server.submit(graph(ours("kohya", 2.5), picture=False))
    assert answer.status_code == 400
    assert answer.json()["node_errors"]["lora"]["errors"][0]["type"] == "value_bigger_than_max"


def test_a_linked_strength_out_of_range_is_refused_by_the_node(server: ComfyUI) -> None:
    api = graph(ours("kohya", ["number", 0]), picture=False)
    api["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 5.0}}
    error = RylaError.parse(server.fail(api)["exception_message"])
    assert error is not None and error.code == "invalid_parameter"
    assert "strength is 5.0" in error.message
