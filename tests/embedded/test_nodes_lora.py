"""RYLA_LoraLoader and RYLA_Prompt on a small FLUX.1 of made-up weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lora_files
import pytest
import small_models
import tiny_flux
import torch
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.embedded.inference import demo_lora as demo
from ryla_nodes.engines.protocol import running_in
from ryla_nodes.errors import RylaError
from ryla_nodes.models.headers import read_header
from ryla_nodes.nodes.lora import LoraLoader, Prompt

Loaded = tuple[Any, Any, Any]


@pytest.fixture
def volume(engine: EmbeddedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """RYLA_VOLUME with a LoRA of id 7."""
    monkeypatch.setenv("RYLA_VOLUME", str(tmp_path))
    (tmp_path / "loras").mkdir()
    transformer = tiny_flux.files(engine.home / "models").transformer
    demo.write(tmp_path / "loras" / "character-7.safetensors", read_header(transformer), "kohya", "ohwx woman")
    with running_in(engine):
        yield tmp_path


def apply(
    loaded: Loaded, lora_id: str, strength: float = 1.0, on_missing: str = "error", **inputs: Any
) -> tuple[Any, ...]:
    fields = {"model": loaded[0], "clip": loaded[1], "lora_id": lora_id, "strength": strength, "on_missing": on_missing}
    result: tuple[Any, ...] = LoraLoader.execute(**fields, **inputs).result
    return result


def test_a_lora_is_found_by_id_and_reported(loaded: Loaded, volume: Path) -> None:
    model, clip, trigger, report = apply(loaded, "7")
    assert model is not loaded[0]
    assert clip is not None
    assert trigger == "ohwx woman"
    for part in (str(volume / "loras" / "character-7.safetensors"), "rank 4", "matched", "FLUX"):
        assert part in report


def test_the_requests_trigger_word_wins(loaded: Loaded, volume: Path) -> None:
    assert apply(loaded, "7", trigger_word="sks man")[2] == "sks man"


@pytest.mark.parametrize("lora_id", ["", "  "])
def test_an_empty_id_passes_everything_through(loaded: Loaded, volume: Path, lora_id: str) -> None:
    assert apply(loaded, lora_id, trigger_word="sks") == (loaded[0], loaded[1], "sks", "No LoRA: lora_id is empty.")


def test_two_loras_in_one_id_are_two_nodes_in_a_row(engine: EmbeddedEngine, loaded: Loaded, volume: Path) -> None:
    header = read_header(tiny_flux.files(engine.home / "models").transformer)
    demo.write(volume / "loras" / "style.safetensors", header, "diffusers", "inked", 3)
    model, clip, trigger, report = apply(loaded, "7*0.8+style*-2", 0.5)
    assert trigger == "ohwx woman, inked"
    assert apply(loaded, "7+7")[2] == "ohwx woman" and apply(loaded, "7+style", trigger_word="sks")[2] == "sks"
    lines = report.split("\n")
    assert lines[0] == "7*0.8+style*-2: 2 LoRAs, one after the other"
    assert [line for line in lines if line.endswith(("strength 0.4", "strength -1"))] == [lines[1], lines[4]]
    first = apply(loaded, "7", 0.4)
    second = apply((*first[:2], loaded[2]), "style", -1.0)
    made, wanted = (small_models.latent((one[0], one[1], loaded[2]), steps=1) for one in ((model, clip), second))
    assert torch.equal(made, wanted)
    assert not torch.equal(made, small_models.latent((*first[:2], loaded[2]), steps=1))


def test_the_part_of_an_id_that_is_wrong_is_named(loaded: Loaded, volume: Path) -> None:
    for lora_id, word in (("7+8", "'8'"), ("7*x+7", "'7*x'"), ("7++7", "part 2"), ("7*9+7", "'7' is 9.0")):
        with pytest.raises(RylaError) as caught:
            apply(loaded, lora_id)
        assert word in caught.value.message
    with pytest.raises(RylaError, match="'8'"):
        LoraLoader.validate_inputs("7+8", "error")
    report = apply(loaded, "8+7", on_missing="pass")[3]
    assert "'8' was not found" in report and "matched" in report


def test_the_fingerprint_follows_every_file_of_an_id(loaded: Loaded, volume: Path) -> None:
    lora_files.small(volume / "loras" / "style.safetensors", "one")
    first = LoraLoader.fingerprint_inputs(lora_id="7+style", on_missing="error")
    assert first == LoraLoader.fingerprint_inputs(lora_id="7+style", on_missing="error")
    assert first != LoraLoader.fingerprint_inputs(lora_id="7", on_missing="error")
    time.sleep(0.01)
    lora_files.small(volume / "loras" / "style.safetensors", "two")
    assert first != LoraLoader.fingerprint_inputs(lora_id="7+style", on_missing="error")


def test_a_missing_id_passes_only_when_asked_to(loaded: Loaded, volume: Path) -> None:
    with pytest.raises(RylaError, match=str(volume / "loras")) as caught:
        apply(loaded, "8")
    assert caught.value.code == "lora_not_found"
    model, clip, trigger, report = apply(loaded, "8", on_missing="pass")
    assert (model, clip, trigger) == (loaded[0], loaded[1], "")
    assert "'8'" in report


def test_an_id_without_a_readable_file_is_refused_before_the_job(loaded: Loaded, volume: Path) -> None:
    (volume / "loras" / "short.safetensors").write_bytes(b"x" * 5)
    assert LoraLoader.validate_inputs("7", "error") is True
    assert LoraLoader.validate_inputs("8", "pass") is True
    assert LoraLoader.validate_inputs(None, "error") is True
    for lora_id, on_missing, word in (
        ("8", "error", "8"),
        ("../7", "pass", "../7"),
        ("short", "pass", "short"),
        ("7", "x", "'x'"),
    ):
        with pytest.raises(RylaError) as caught:
            LoraLoader.validate_inputs(lora_id, on_missing)
        assert word in str(caught.value)


def test_pass_does_not_hide_a_wrong_file(loaded: Loaded, volume: Path) -> None:
    lora_files.write(volume / "loras" / "sdxl.safetensors", lora_files.kohya(lora_files.SDXL))
    with pytest.raises(RylaError, match=r"SDXL.*FLUX") as caught:
        apply(loaded, "sdxl", on_missing="pass")
    assert caught.value.code == "lora_wrong_family"


def test_the_fingerprint_follows_the_file(loaded: Loaded, volume: Path) -> None:
    def state(lora_id: str | None) -> str:
        return LoraLoader.fingerprint_inputs(lora_id=lora_id, on_missing="pass", strength=1.0)

    first = state("7")
    assert state("7") == first
    assert str(volume) not in first
    assert (state(""), state(" "), state(None)) == ("", "", "")
    before = state("late")
    lora_files.small(volume / "loras" / "late.safetensors", "one")
    added = state("late")
    time.sleep(0.01)
    lora_files.small(volume / "loras" / "late.safetensors", "two")
    assert len({before, added, state("late")}) == 3


@pytest.mark.parametrize(
    ("text", "trigger", "expected"),
    [
        ("a portrait", "ohwx woman", "ohwx woman, a portrait"),
        ("Ohwx Woman in a garden", "ohwx woman", "Ohwx Woman in a garden"),
        ("a portrait", "", "a portrait"),
    ],
)
def test_the_prompt_has_the_trigger_word_once(text: str, trigger: str, expected: str) -> None:
    assert Prompt.execute(text=text, trigger=trigger).result == (expected,)
    assert Prompt.execute(text=text).result == (text,)
