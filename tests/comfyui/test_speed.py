"""RYLA_FluxSpeed's modes in a real ComfyUI's code: what they paint, what they leave alone, when they step back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from comfyui.process import Install


@pytest.fixture(scope="module")
def probe(comfyui_install: Install) -> dict[str, Any]:
    return comfyui_install.probe("speed_probe.py", timeout=560)


def test_a_cpu_is_refused_in_one_line_and_the_model_is_the_same(probe: dict[str, Any]) -> None:
    assert probe["refused_is_same"]
    assert probe["refused"] == (
        "Speed fast is not used, the model is unchanged: the model runs on cpu, not on an NVIDIA GPU."
    )


def test_exact_paints_what_stock_paints_and_fast_nearly(probe: dict[str, Any]) -> None:
    assert probe["exact"] < 1e-4
    assert 1e-4 < probe["fast"] < 0.1
    assert probe["again"] and probe["clone"]
    assert probe["cfg"] < 1e-3


def test_one_graph_of_each_kind_of_block_serves_all_sizes(probe: dict[str, Any]) -> None:
    assert (probe["graphs_exact"], probe["graphs_fast"]) == (2, 4)
    assert probe["graphs_of_sizes"] == 0
    assert probe["graphs_in_the_end"] == probe["graphs_of_batches"] == 0


def test_the_stock_model_stays_as_it_was(probe: dict[str, Any]) -> None:
    assert probe["untouched"] and probe["interrupted"]


def test_loras_before_and_after_act_and_go(probe: dict[str, Any]) -> None:
    assert probe["lora_effect"] > 0.1
    assert max(probe["lora_after"]) < 0.1 and probe["exact_lora"] < 1e-3
    assert probe["lora_order"] and probe["back"]


def test_other_nodes_patches_are_heeded(probe: dict[str, Any]) -> None:
    difference, calls = probe["replacement"]
    assert difference < 1e-4 and calls == 2
    difference, calls = probe["override"]
    assert difference < 0.1 and calls == 10


def test_8_bit_weights_go_with_the_model(probe: dict[str, Any]) -> None:
    assert probe["kept"] == 1
    assert probe["lowvram"] == ["the model is only partly on the card", 0]
    assert probe["unloaded"] == 0
    assert probe["after_unload"] < 1e-5


def test_off_takes_the_wrapper_away(probe: dict[str, Any]) -> None:
    assert probe["off"] == []


def test_models_of_other_packs_are_refused_by_name(probe: dict[str, Any]) -> None:
    layers, packed, compiled = probe["said"]
    assert "another extension's (gguf.ops)" in layers
    assert "quantised" in packed
    assert "another node has compiled its blocks" in compiled


def test_a_block_that_another_pack_patched_runs_as_it_is(probe: dict[str, Any]) -> None:
    (exact, fast), calls = probe["patched_forward"]
    assert exact < 1e-4 and fast < 0.1 and calls == 4


def test_a_card_of_24_gb_paints_as_it_is(probe: dict[str, Any]) -> None:
    unchanged, modules, again, core_reads = probe["small_card"]
    assert unchanged and modules == 0 and again and core_reads


def test_an_interrupt_while_the_compiler_works_ends_the_job_and_nothing_else(probe: dict[str, Any]) -> None:
    interrupted, difference = probe["interrupted_compile"]
    assert interrupted and difference < 1e-4


def test_changes_of_speed_and_of_size_leave_nothing_behind(probe: dict[str, Any]) -> None:
    assert probe["left_of_changes"] == [0, 0, 0] and probe["turns_are_equal"]


def test_quantised_weights_are_refused(probe: dict[str, Any]) -> None:
    assert "quantised" in probe["quantised"]


def row_kernel(install: Install, what: str) -> dict[str, Any]:
    command = [str(install.python), str(Path(__file__).with_name("row_kernel_probe.py")), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    if not found["triton"]:
        pytest.skip("Does not apply: this ComfyUI's Python has no Triton")
    return found


def test_the_kernel_rounds_as_pytorch_does(comfyui_install: Install) -> None:
    found = row_kernel(comfyui_install, "values")
    assert found["rows"].keys() == {"whole", "beside others", "of a power of 2", "float"}
    for name, row in found["rows"].items():
        # In bfloat16 GELU itself may be a last bit off, and all of a row with its largest value.
        assert row["scale"] <= (1e-6 if name == "float" else 2**-7)
        assert row["steps"] <= 1 and row["equal"] > 0.95
    assert found["zero"] == [0, pytest.approx(1e-12)]


def test_the_compiler_sees_the_kernel_in_its_operator(comfyui_install: Install) -> None:
    found = row_kernel(comfyui_install, "shapes")
    assert found["made"] == [["torch.float8_e4m3fn", [5, 96], "cuda"], ["torch.float32", [5, 1], "cuda"]]
    assert found["kernels"] == 1


@pytest.fixture(scope="module")
def ahead(comfyui_install: Install, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A process that finds blocks compiled ahead by another."""
    script, volume = Path(__file__).with_name("ahead_probe.py"), tmp_path_factory.mktemp("volume")
    command = [str(comfyui_install.python), str(script), str(comfyui_install.root), str(volume)]
    # A folder that other tests of this process let the compiler use would be taken for the user's choice.
    unset = {
        key: value for key, value in os.environ.items() if key not in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    }
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=unset)
        assert done.returncode == 0, done.stderr[-4000:]
    assert len(list(volume.glob("cache/*/*.pt2"))) == 3, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_blocks_compiled_ahead_paint_what_stock_paints(ahead: dict[str, Any]) -> None:
    for what in ("exact", "lora 1", "lora 2", "other size", "batch", "again"):
        assert ahead[what] < 1e-3, what
    assert ahead["compiled_exact"] == [] and ahead["untouched"]
    assert ahead["fast"] < 0.1 and ahead["compiled_fast"] == ["_double"]


def test_a_weight_that_is_patched_at_each_call_keeps_its_block_from_them(ahead: dict[str, Any]) -> None:
    assert ahead["of the patch"] > 0.01
    assert ahead["patched at each call"][0] < 1e-3 and ahead["patched at each call"][1] > 0


def test_blocks_compiled_ahead_keep_no_weights_alive(ahead: dict[str, Any]) -> None:
    assert ahead["layers in 8 bits after unloading"] == 0
