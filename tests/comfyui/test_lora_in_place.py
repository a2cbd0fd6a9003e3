"""LoRAs changed in place: the weights are core's own after any number of changes, and nothing moves."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui.process import Install


@pytest.fixture(scope="module")
def probe(comfyui_install: Install) -> dict[str, Any]:
    return comfyui_install.probe("patcher_probe.py", timeout=200)


def test_a_thousand_changes_give_the_weights_that_core_gives(probe: dict[str, Any]) -> None:
    assert probe["wrong"] == 0


def test_no_change_takes_the_way_through_the_offload_device(probe: dict[str, Any]) -> None:
    assert probe["moves"] == 0 and probe["kinds"] == ["InPlacePatcher"]


def test_originals_are_let_go_when_no_lora_needs_them(probe: dict[str, Any]) -> None:
    assert probe["kept"] == 0 and probe["unloaded"]


def test_a_patcher_of_core_takes_over(probe: dict[str, Any]) -> None:
    assert probe["core_takes_over"]
