"""A ComfyUI that starts with kept 8-bit weights: the same pictures, its own accounts of memory, no matrix read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comfyui.process import Install
from comfyui.test_nodes_flux import models, small  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def probe(comfyui_install: Install, models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:  # noqa: F811
    return comfyui_install.probe("kept_probe.py", models, tmp_path_factory.mktemp("volume"), timeout=560)


def test_fast_reads_no_matrix_and_paints_what_it_painted(probe: dict[str, Any]) -> None:
    assert probe["kept"] and probe["put_off"] == 24
    assert probe["fast"] and probe["fast_again"] and probe["after_fast"] == [24, 0]


def test_the_compiler_works_while_they_are_read(probe: dict[str, Any]) -> None:
    assert probe["steps"] == [3, 5]  # Two steps each, and one whose result nobody sees.


def test_comfyui_counts_the_model_as_if_it_were_read(probe: dict[str, Any]) -> None:
    assert probe["accounted"]
    assert probe["unloaded"] == [24, 0, True, 0] and probe["after_unload"]


def test_whatever_else_runs_finds_the_weights(probe: dict[str, Any]) -> None:
    assert probe["plain"] and probe["exact"] and probe["lora"] and probe["saved"]
    assert probe["after_plain"] == [0, 24]
    assert probe["back"]


def test_a_lora_and_fast_together_read_them(probe: dict[str, Any]) -> None:
    assert probe["lora_fast"] and probe["lora_gone"]


def test_a_step_that_cannot_be_fast_reads_them(probe: dict[str, Any]) -> None:
    assert probe["lowvram"] == [True, 0]


def test_an_interrupt_ends_the_loading(probe: dict[str, Any]) -> None:
    assert probe["interrupted"]
