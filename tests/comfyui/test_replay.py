"""SDXL with InstantID and its ControlNet replayed in a real ComfyUI: the same pictures, and nothing stale."""

from __future__ import annotations

from typing import Any

import pytest
from comfyui.process import Install


@pytest.fixture(scope="module")
def probe(comfyui_install: Install) -> dict[str, Any]:
    return comfyui_install.probe("replay_probe.py", timeout=560)


def test_a_step_is_run_then_recorded_then_replayed(probe: dict[str, Any]) -> None:
    """Four steps of a UNet and a ControlNet: [the same picture, recorded, replayed]."""
    assert probe["first"] == [True, 2, 6]
    assert probe["again"] == [True, 0, 8]


def test_the_noise_of_the_next_step_is_drawn_while_one_is_computed(probe: dict[str, Any]) -> None:
    """Four steps, the last of which takes none: [the same picture, taken, drawn before it was asked for]."""
    assert probe["noise"] == {"dpmpp_2m_sde": [True, 3, 3], "dpmpp_3m_sde": [True, 3, 3]}
    assert probe["noise_out_of_order"]


def test_samplers_that_draw_otherwise_are_left_alone(probe: dict[str, Any]) -> None:
    assert probe["noise_as_it_is"] == {"dpmpp_sde": [True, 0, 0], "ddpm": [True, 0, 0]}


def test_what_is_computed_otherwise_is_recorded_anew(probe: dict[str, Any]) -> None:
    """Another node's identity, its window, a mask and a second person."""
    assert probe["another_node"] == probe["mask"] == probe["two_people"] == [True, 1, 7]
    assert probe["window"][0] and probe["kinds_kept"] == 4
    assert probe["weight_matters"] and probe["moved_weights"] == [True, 1, 7]


def test_another_extensions_part_in_a_step_is_not_recorded(probe: dict[str, Any]) -> None:
    """Only the ControlNet is replayed then."""
    assert probe["other_pack"] == probe["other_wrapper"] == [True, 0, 4]
    assert probe["unknown"] == [], "ComfyUI tells its networks something that is not known here"


def test_a_model_that_is_partly_on_the_card_runs_as_it_is(probe: dict[str, Any]) -> None:
    assert probe["lowvram"] == [True, 0, 0] and probe["let_go"]


def test_what_cannot_be_recorded_runs_as_it_is(probe: dict[str, Any]) -> None:
    assert probe["cannot_be_recorded"][0]


def test_it_goes_with_the_model_and_by_the_mode(probe: dict[str, Any]) -> None:
    assert probe["off"] == [True, False] and probe["detached"] and probe["network_back"] == "ControlNet"


def test_it_says_what_it_did(probe: dict[str, Any]) -> None:
    assert "on cpu" in probe["on_cpu"] and "unchanged" in probe["on_cpu"]
    assert "replayed" in probe["said"]
