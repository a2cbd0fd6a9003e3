"""LoRAs changed in place: the weights are core's own after any number of changes, and nothing moves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from comfyui.process import Install


@pytest.fixture(scope="module")
def probe(comfyui_install: Install) -> dict[str, Any]:
    script = Path(__file__).with_name("patcher_probe.py")
    command = [str(comfyui_install.python), str(script), str(comfyui_install.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_thousand_changes_give_the_weights_that_core_gives(probe: dict[str, Any]) -> None:
    assert probe["wrong"] == 0


def test_no_change_takes_the_way_through_the_offload_device(probe: dict[str, Any]) -> None:
    assert probe["moves"] == 0 and probe["kinds"] == ["InPlacePatcher"]


def test_originals_are_let_go_when_no_lora_needs_them(probe: dict[str, Any]) -> None:
    assert probe["kept"] == 0 and probe["unloaded"]


def test_a_patcher_of_core_takes_over(probe: dict[str, Any]) -> None:
    assert probe["core_takes_over"]
