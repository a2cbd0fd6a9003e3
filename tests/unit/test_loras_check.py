"""The checks around an applied LoRA, and the report's wording."""

from __future__ import annotations

from pathlib import Path

import lora_files
import pytest
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import check
from ryla_nodes.loras.check import LoraResult
from ryla_nodes.loras.inspect import LoraInfo, inspect
from ryla_nodes.loras.store import LoraStore


def info_of(tmp_path: Path, example: str) -> LoraInfo:
    made = lora_files.examples()[example]
    return inspect(lora_files.write(tmp_path / "x.safetensors", made.tensors, made.metadata))


def result(model: int, clip: int, *unmatched: str) -> LoraResult:
    return LoraResult(None, None, model, clip, unmatched)


class TestFamily:
    @pytest.mark.parametrize("example", ["flux kohya", "flux ai-toolkit", "clip-l only", "names of no family"])
    def test_same_or_unknown_passes(self, tmp_path: Path, example: str) -> None:
        check.require_family(info_of(tmp_path, example), "flux")

    def test_an_unknown_model_passes(self, tmp_path: Path) -> None:
        check.require_family(info_of(tmp_path, "sdxl kohya"), "unknown")

    @pytest.mark.parametrize(
        ("example", "title"),
        [
            ("sdxl kohya", "SDXL"),
            ("sdxl text encoders only", "SDXL"),
            ("sd15 kohya", "Stable Diffusion 1.5"),
            ("wan comfyui", "Wan"),
            ("qwen attention only", "Qwen-Image"),
            ("z-image ai-toolkit", "Z-Image"),
            ("flux2 klein", "FLUX.2"),
        ],
    )
    def test_another_is_refused_naming_both(self, tmp_path: Path, example: str, title: str) -> None:
        with pytest.raises(RylaError) as raised:
            check.require_family(info_of(tmp_path, example), "flux")
        assert raised.value.code == "lora_wrong_family"
        assert f"for {title}," in raised.value.message and "FLUX.1" in raised.value.message
        assert raised.value.details["model_family"] == "flux"

    def test_text_encoders_only_need_a_clip(self, tmp_path: Path) -> None:
        info = info_of(tmp_path, "clip-l only")
        check.require_family(info, "flux", clip=True)
        with pytest.raises(RylaError, match="only text encoders \\(clip_l\\), and no CLIP is connected"):
            check.require_family(info, "flux", clip=False)


class TestMatches:
    def test_one_matched_weight_of_the_model_passes(self, tmp_path: Path) -> None:
        check.require_matches(info_of(tmp_path, "flux kohya"), result(1, 0, "a", "b"), "flux")

    def test_text_encoders_count_only_for_a_lora_of_text_encoders(self, tmp_path: Path) -> None:
        check.require_matches(info_of(tmp_path, "clip-l only"), result(0, 4), "flux")
        with pytest.raises(RylaError):
            check.require_matches(info_of(tmp_path, "flux kohya with CLIP-L"), result(0, 4), "flux")

    def test_none_is_an_error_that_names_families_and_keys(self, tmp_path: Path) -> None:
        with pytest.raises(RylaError) as raised:
            check.require_matches(info_of(tmp_path, "names of no family"), result(0, 0, "k1", "k2", "k3", "k4"), "flux")
        assert raised.value.code == "lora_matches_nothing"
        for part in ("an unknown family", "FLUX.1", "k1, k2, k3 ..."):
            assert part in raised.value.message


@pytest.mark.parametrize("value", ["1.0", None, True, float("nan"), float("inf"), 2.5, -2.01, [1]])
def test_strength_out_of_range_or_no_number(value: object) -> None:
    with pytest.raises(RylaError) as raised:
        check.require_strength(value)
    assert raised.value.code == "invalid_parameter"


@pytest.mark.parametrize("value", [0, -2, 2, 0.8])
def test_strength(value: float) -> None:
    assert check.require_strength(value) == value


def test_report(tmp_path: Path) -> None:
    for name in ("7", "character-7"):
        lora_files.small(tmp_path / f"{name}.safetensors", "ohwx")
    file = LoraStore([tmp_path]).find("7")
    report = check.report(file, inspect(file.path), result(2, 0, "x.alpha"), 0.8)
    assert str(file.path) in report and "FLUX.1" in report and "strength 0.8" in report
    assert f"not taken: {file.also[0]}" in report
    assert "matched 2 weights of the model, 0 of the text encoders" in report
    assert "1 keys of the file matched nothing, such as x.alpha" in report
    assert "trigger word 'ohwx' (from metadata modelspec.trigger_phrase)" in report
    asked = check.report(file, inspect(file.path), result(2, 0), 0.8, "sks man")
    assert "trigger word 'sks man' (from the request)" in asked and "ohwx" not in asked


def test_report_of_text_encoders_and_of_an_unknown_family(tmp_path: Path) -> None:
    lora_files.write(tmp_path / "7.safetensors", lora_files.examples()["clip-l only"].tensors)
    file = LoraStore([tmp_path]).find("7")
    report = check.report(file, inspect(file.path), result(0, 4), 1.0)
    assert "the diffusion model is unchanged" in report and "family is not known" in report
