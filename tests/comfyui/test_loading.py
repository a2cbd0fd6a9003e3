"""Weights read straight to the device: bit for bit core's own, counted and let go by ComfyUI as its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import shipped_models
from comfyui.conftest import StartComfyUI
from comfyui.process import Install
from comfyui.test_nodes_flux import models, small  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def probe(comfyui_install: Install, models: Path) -> dict[str, Any]:  # noqa: F811
    shipped_models.identity(models)
    return comfyui_install.probe("loading_probe.py", models, timeout=200)


@pytest.mark.parametrize("files", ["split", "whole", "fp8", "sdxl"])
def test_the_weights_are_core_s_bit_for_bit(probe: dict[str, Any], files: str) -> None:
    assert probe[files]["differences"] == []
    assert probe[files]["kinds"] and probe[files]["restored"]


def test_the_memory_that_was_read_into_is_the_model_s(probe: dict[str, Any]) -> None:
    for files, parts in (("split", 2), ("whole", 1)):
        adopted, sizes = probe[files]["adopted"], probe[files]["sizes"]
        assert all(mine > 0.9 * whole for mine, whole in zip(adopted[:parts], sizes, strict=False)), probe[files]


def test_comfyui_counts_the_models_and_lets_them_go(probe: dict[str, Any]) -> None:
    assert probe["split"]["loaded"][:2] == [True, True] and all(probe["whole"]["loaded"] + probe["sdxl"]["loaded"])
    assert all(probe[files]["accounted"] and probe[files]["unloaded"] for files in ("split", "whole", "sdxl"))


def test_when_the_memory_is_gone_core_reads(probe: dict[str, Any]) -> None:
    assert probe["without_memory"]


def test_the_same_prompt_is_encoded_once(probe: dict[str, Any]) -> None:
    assert probe["texts"] == {
        "encoded": [2, 3, 24],
        "same": True,
        "apart": True,
        "own_values": True,
        "pooled": True,
        "kept": 16,
        "clone": "CLIP",
    }


def test_an_interrupt_ends_the_reading(probe: dict[str, Any]) -> None:
    assert probe["interrupted"]


def test_where_there_is_no_card_core_reads(probe: dict[str, Any]) -> None:
    assert probe["cpu"] is None and all(probe[files]["plainly"] for files in ("split", "whole", "fp8", "sdxl"))
    assert not any(probe["fp8"]["adopted"])


@pytest.mark.parametrize("route", ["paths", "clone"])
def test_files_are_read_from_before_comfyui_imports_anything(start_comfyui: StartComfyUI, route: str) -> None:
    log = start_comfyui(route, environ={"RYLA_PREFETCH": "flux-dev, nonsense"}).log
    said = [line for line in log.splitlines() if "RYLA_PREFETCH" in line]
    assert len(said) == 1 and "'nonsense' is neither a workflow nor a model" in said[0]
    assert log.index("RYLA_PREFETCH") < log.index("Starting server") and "Failed to execute startup-script" not in log
