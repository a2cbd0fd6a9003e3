"""What is read from a LoRA's header and sidecar, for every format and family, and for files that are none."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import lora_files
import numpy as np
import pytest
from lora_files import Example
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import families, keys, metadata, trigger
from ryla_nodes.loras.inspect import inspect

EXAMPLES = lora_files.examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_format_and_family(tmp_path: Path, name: str) -> None:
    example: Example = EXAMPLES[name]
    info = inspect(lora_files.write(tmp_path / "x.safetensors", example.tensors, example.metadata))
    for field in ("family", "format", "algorithms", "rank", "components", "trigger_word", "tool"):
        assert getattr(info, field) == getattr(example, field), field
    assert info.modules and info.targets and info.family in families.FAMILIES
    assert json.loads(json.dumps(info.as_dict()))["family"] == example.family


def test_alpha_targets_and_base(tmp_path: Path) -> None:
    kohya = inspect(lora_files.write(tmp_path / "k.safetensors", EXAMPLES["flux kohya"].tensors, lora_files.KOHYA_FLUX))
    assert (kohya.alpha, kohya.base_model, kohya.dtype) == (1.0, "flux1-dev.safetensors", "F16")
    assert "double_blocks_*_img_attn_qkv" in kohya.targets and "single_blocks_*_linear1" in kohya.targets
    diffusers = EXAMPLES["flux diffusers"]
    info = inspect(lora_files.write(tmp_path / "d.safetensors", diffusers.tensors, diffusers.metadata))
    assert info.alpha == 4.0 and "transformer_blocks.*.attn.to_out.0" in info.targets
    plain = inspect(lora_files.write(tmp_path / "p.safetensors", diffusers.tensors))
    assert (plain.alpha, plain.tool, plain.base_model) == (2.0, None, None)
    assert (
        inspect(lora_files.write(tmp_path / "m.safetensors", EXAMPLES["flux mixed ranks"].tensors)).rank_text == "4-16"
    )


@pytest.mark.parametrize("kind", ["kohya", "peft", "loha", "lokr", "dora", "full"])
def test_the_size_of_the_weight_that_a_module_is_for(kind: str) -> None:
    layers = lora_files.flux(256)
    writers = {"kohya": lora_files.kohya, "peft": lora_files.peft}
    tensors = writers[kind](layers) if kind in writers else lora_files.lycoris(kind, layers)
    modules = keys.modules({key: ("F16", tensor.shape) for key, tensor in tensors.items()})
    assert [module.elements for module in modules.values()] == [out * into for _, out, into in layers]


def test_the_size_of_a_convolution_and_of_what_does_not_tell_it() -> None:
    def elements(tensors: lora_files.Tensors) -> list[int | None]:
        modules = keys.modules({key: ("F16", tensor.shape) for key, tensor in tensors.items()})
        return [module.elements for module in modules.values()]

    convolution = {key: tensor for key, tensor in lora_files.locon().items() if "resnets" in key}
    assert elements(convolution) == [320 * 320 * 3 * 3]
    tucker = convolution | {"lora_unet_down_blocks_0_resnets_0_conv1.lora_mid.weight": np.zeros((4, 4, 3, 3))}
    assert elements(tucker) == [None]
    for kind in ("oft", "glora", "ia3"):
        assert set(elements(lora_files.lycoris(kind, lora_files.flux(256)))) == {None}
    scalars = {"lora_unet_x.lora_down.weight": np.zeros(()), "lora_unet_x.lora_up.weight": np.zeros(())}
    assert elements(scalars) == [None]


def test_metadata_decides_only_where_the_layers_do_not(tmp_path: Path) -> None:
    flux = {"ss_base_model_version": "flux1"}
    assert inspect(lora_files.write(tmp_path / "a.safetensors", EXAMPLES["clip-l only"].tensors, flux)).family == "flux"
    assert inspect(lora_files.write(tmp_path / "b.safetensors", EXAMPLES["sdxl kohya"].tensors, flux)).family == "sdxl"


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("flux-1-dev/lora", "flux"),
        ("flux2", "flux2"),
        ("black-forest-labs/FLUX.2-dev", "flux2"),
        ("stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("sdxl_base_v1-0", "sdxl"),
        ("stable-diffusion-v1/lora", "sd15"),
        ("sd_v1", "sd15"),
        ("sd_1.5", "sd15"),
        ("sd3-medium", "sd3"),
        ("Wan2.1-T2V-14B", "wan"),
        ("qwen_image", "qwen-image"),
        ("zimage", "z-image"),
        ("somebody's merge", "unknown"),
    ],
)
def test_family_named_by_a_trainer(text: str, family: str) -> None:
    assert families.from_text(None, text) == family


FREQUENCY = {"5_x": {"ohwx woman": 8, "smiling": 8, "park": 2}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"modelspec.trigger_phrase": " ohwx,  woman "}, "ohwx, woman"),
        ({"ss_trigger_words": '["ohwx", "woman"]'}, "ohwx, woman"),
        ({"trigger_word": "ohwx", "modelspec.trigger_phrase": ""}, "ohwx"),
        ({"instance_prompt": "a photo of sks dog"}, "sks dog"),
        ({"trigger_word": "None"}, None),
        ({"trigger_word": "oh\x1b[31mwx\x00\n woman"}, "oh[31mwx woman"),
        ({"trigger_word": "x" * 300}, None),
        ({"trigger_word": " , "}, None),
        ({"ss_tag_frequency": '{"1_ohwx": {"ohwx": 1}}'}, "ohwx"),
        ({"ss_tag_frequency": '{"1_a": {"ohwx": 3}, "2_b": {"ohwx": 4}}'}, "ohwx"),
        ({"ss_tag_frequency": '{"1_a": {"1girl": 3}}'}, None),
        # Two tags on every picture: no way to tell which of them is the trigger.
        ({"ss_tag_frequency": json.dumps(FREQUENCY), "ss_dataset_dirs": '{"5_x": {"img_count": 8}}'}, None),
        ({"ss_tag_frequency": json.dumps(FREQUENCY)}, None),
        (
            {"ss_tag_frequency": '{"5_x": {"ohwx": 8, "park": 2}}', "ss_dataset_dirs": '{"5_x": {"img_count": 8}}'},
            "ohwx",
        ),
        # Damaged metadata is no trigger word, and no crash.
        ({"ss_tag_frequency": "{"}, None),
        ({"ss_tag_frequency": "[1]"}, None),
        ({"ss_tag_frequency": '{"a": 1, "b": {"x": "y"}}'}, None),
        ({"ss_tag_frequency": "[" * 100_000}, None),
        ({}, None),
    ],
)
def test_trigger_word_of_the_metadata(fields: dict[str, str], expected: str | None) -> None:
    found = trigger.of_metadata(fields)
    assert (found[0] if found else None) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"ss_network_alpha": "NaN-ish"},
        {"ss_network_alpha": "None"},
        {"lora_adapter_metadata": "{"},
        {"lora_adapter_metadata": "[]"},
        {"lora_adapter_metadata": '{"transformer.lora_alpha": "x"}'},
    ],
)
def test_damaged_alpha_is_unknown(fields: dict[str, str]) -> None:
    assert metadata.alpha(fields) is None


class TestSidecar:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"trigger_word": "ohwx"}, "ohwx"),
            ({"trigger_words": ["ohwx", "red hair"]}, "ohwx, red hair"),
            ({"triggerWord": "ohwx"}, "ohwx"),
            ({"activation text": "ohwx woman,"}, "ohwx woman"),
            ({"civitai": {"trainedWords": ["ohwx"]}}, "ohwx"),
            ({"notes": "nothing of ours"}, "fromfile"),
            ({"trigger_word": ""}, "fromfile"),
            ({"trigger_word": None}, "fromfile"),
        ],
    )
    def test_wins_over_the_metadata(self, tmp_path: Path, fields: dict[str, object], expected: str) -> None:
        path = lora_files.small(tmp_path / "7.safetensors", "fromfile")
        assert inspect(path).trigger_word == "fromfile"
        (tmp_path / "7.json").write_text(json.dumps(fields), encoding="utf-8-sig")
        info = inspect(path)
        assert info.trigger_word == expected
        assert info.trigger_source == ("7.json" if expected != "fromfile" else "metadata modelspec.trigger_phrase")

    def test_may_be_named_after_the_whole_file_name(self, tmp_path: Path) -> None:
        path = lora_files.small(tmp_path / "7.safetensors")
        (tmp_path / "7.safetensors.json").write_text('{"trigger_word": "ohwx", "base_model": "FLUX.1 Dev"}')
        assert (inspect(path).trigger_word, inspect(path).base_model) == ("ohwx", "FLUX.1 Dev")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("not json", "it is not JSON"),
            ("", "it is not JSON"),
            ('["ohwx"]', "not a JSON object"),
            ('{"trigger_word": 7}', "'trigger_word' is 7, not text"),
            ('{"trigger_words": [1]}', "not text"),
            ("[" * 100_000, "it is not JSON"),
            (" " * 1_000_001, "larger than"),
        ],
    )
    def test_that_is_malformed_is_an_error(self, tmp_path: Path, text: str, says: str) -> None:
        path = lora_files.small(tmp_path / "7.safetensors")
        (tmp_path / "7.json").write_text(text)
        with pytest.raises(RylaError) as raised:
            inspect(path)
        assert raised.value.code == "invalid_sidecar" and says in raised.value.message
        assert str(tmp_path / "7.json") in raised.value.message

    def test_not_utf8_is_an_error(self, tmp_path: Path) -> None:
        path = lora_files.small(tmp_path / "7.safetensors")
        (tmp_path / "7.json").write_bytes(b'{"trigger_word": "\xff"}')
        with pytest.raises(RylaError, match="it is not JSON"):
            inspect(path)


def code_of(path: Path) -> tuple[str, str]:
    with pytest.raises(RylaError) as raised:
        inspect(path)
    return raised.value.code, str(raised.value)


class TestNoLora:
    def test_zero_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "7.safetensors").touch()
        code, text = code_of(tmp_path / "7.safetensors")
        assert code == "empty_file" and "ryla loras add" in text

    @pytest.mark.parametrize("keep", [4, 30, -1, -1000])
    def test_truncated(self, tmp_path: Path, keep: int) -> None:
        whole = lora_files.small(tmp_path / "whole.safetensors").read_bytes()
        (tmp_path / "7.safetensors").write_bytes(whole[:keep])
        assert code_of(tmp_path / "7.safetensors")[0] in {"truncated_file", "not_safetensors"}
        if keep < 0:
            assert code_of(tmp_path / "7.safetensors")[0] == "truncated_file"

    def test_pickle_by_name_and_by_content(self, tmp_path: Path) -> None:
        for name in ("7.pt", "7.CKPT", "7.bin"):
            (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
            assert code_of(tmp_path / name)[0] == "lora_pickle"
        (tmp_path / "7.safetensors").write_bytes(pickle.dumps({"a": 1}, protocol=2))
        assert code_of(tmp_path / "7.safetensors")[0] == "not_safetensors"

    def test_a_web_page(self, tmp_path: Path) -> None:
        (tmp_path / "7.safetensors").write_text("<!DOCTYPE html><html>Please log in</html>")
        code, text = code_of(tmp_path / "7.safetensors")
        assert code == "not_safetensors" and "web page" in text

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            (["text_model.encoder.layers.0.mlp.fc1.weight"], "a CLIP-L text encoder"),
            (["decoder.conv_in.weight", "encoder.conv_in.weight"], "unknown (2 tensors, such as"),
            (["emb_params"], "unknown (1 tensors, such as emb_params)"),
            (["lora_controlnet", "input_blocks.0.0.weight"], "a Control-LoRA, which is a ControlNet"),
            (["vocoder.activations.0.alpha"], "unknown"),
            ([], "unknown (0 tensors, such as none)"),
        ],
    )
    def test_other_weights_are_named(self, tmp_path: Path, keys: list[str], says: str) -> None:
        path = lora_files.write(tmp_path / "7.safetensors", {key: np.zeros((2, 2), np.float16) for key in keys})
        code, text = code_of(path)
        assert code == "not_a_lora" and says in text

    def test_vanished_and_directory(self, tmp_path: Path) -> None:
        assert code_of(tmp_path / "gone.safetensors")[0] == "lora_vanished"
        (tmp_path / "7.safetensors").mkdir()
        assert code_of(tmp_path / "7.safetensors")[0] == "unreadable_file"


class TestHugeFiles:
    SIZE = 10 * 2**30

    def test_of_zeros_are_refused_without_reading_them(self, tmp_path: Path) -> None:
        path = tmp_path / "7.safetensors"
        with path.open("wb") as file:
            file.truncate(self.SIZE)
        start = time.perf_counter()
        assert code_of(path)[0] == "not_safetensors"
        assert time.perf_counter() - start < 0.5

    def test_with_a_good_header_are_inspected_without_reading_them(self, tmp_path: Path) -> None:
        half = self.SIZE // 2
        entries = {
            f"lora_unet_double_blocks_0_img_attn_qkv.{role}.weight": {
                "dtype": "F16",
                "shape": shape,
                "data_offsets": [half * n, half * (n + 1)],
            }
            for n, (role, shape) in enumerate({"lora_down": [16, half // 32], "lora_up": [half // 32, 16]}.items())
        }
        header = json.dumps(entries).encode()
        path = tmp_path / "7.safetensors"
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + self.SIZE)
        start = time.perf_counter()
        info = inspect(path)
        assert time.perf_counter() - start < 0.5
        assert (info.family, info.rank, info.size) == ("flux", (16, 16), path.stat().st_size)


def test_an_answer_is_kept_until_the_file_or_sidecar_changes(tmp_path: Path) -> None:
    path = lora_files.small(tmp_path / "7.safetensors", "first")
    assert inspect(path).trigger_word == "first"
    lora_files.small(path, "second")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert inspect(path).trigger_word == "second"
    (tmp_path / "7.json").write_text('{"trigger_word": "third"}')
    assert inspect(path).trigger_word == "third"
    (tmp_path / "7.json").unlink()
    assert inspect(path).trigger_word == "second"
