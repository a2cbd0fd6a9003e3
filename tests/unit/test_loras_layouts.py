"""What a LoRA records and nobody applies, and the layouts of which ComfyUI reads nothing: each is said, by its name."""

from __future__ import annotations

import json
from pathlib import Path

import lora_files
import numpy as np
import pytest
from lora_files import Tensors
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import check, keys
from ryla_nodes.loras.check import LoraResult
from ryla_nodes.loras.inspect import LoraInfo, inspect
from ryla_nodes.loras.store import LoraStore

PEFT = lora_files.peft(lora_files.flux_diffusers(), rank=8)
KOHYA = lora_files.kohya(lora_files.flux(), rank=8, alpha=4.0)


def made(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> LoraInfo:
    return inspect(lora_files.write(folder / "x.safetensors", tensors, metadata))


def adapter(**fields: object) -> dict[str, str]:
    """diffusers' metadata of a transformer's adapter."""
    return {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in fields.items()})}


def told(info: LoraInfo, *words: str) -> bool:
    """Whether one note has all of these words."""
    return any(all(word in note for word in words) for note in info.notes)


class TestScale:
    @pytest.mark.parametrize(
        ("metadata", "words"),
        [
            (adapter(r=8, lora_alpha=32), ("alpha 32 over rank 8", "a scale of 4", "no strength up to 2")),
            (adapter(r=8, lora_alpha=4), ("alpha 4 over rank 8", "a scale of 0.5", "strength 0.5 gives that")),
            (adapter(lora_alpha=16), ("alpha 16 over rank 8", "strength 2 gives that")),
            (adapter(r=4, lora_alpha=4, use_rslora=True), ("over the root of rank 4", "a scale of 2")),
            (adapter(r=8, lora_alpha=8, alpha_pattern={"x": 2}), ("of its own for some layers",)),
            ({"lora_alpha": "16", "r": "8"}, ("metadata lora_alpha", "a scale of 2")),
            ({"ss_network_alpha": "16", "ss_network_dim": "8"}, ("ss_network_alpha", "a scale of 2")),
        ],
    )  # fmt: skip
    def test_that_is_recorded_and_in_no_key_is_said(
        self, tmp_path: Path, metadata: dict[str, str], words: tuple[str, ...]
    ) -> None:
        info = made(tmp_path, PEFT, metadata)
        assert told(info, *words), info.notes
        report = check.report(LoraStore([tmp_path]).find("x"), info, LoraResult(None, None, 9, 0, ()), 1.0)
        assert words[0] in report

    def test_of_pefts_own_configuration_beside_the_file(self, tmp_path: Path) -> None:
        config = {
            "r": 8,
            "lora_alpha": 32,
            "base_model_name_or_path": "black-forest-labs/FLUX.1-dev",
            "use_dora": False,
        }
        tmp_path.joinpath("adapter_config.json").write_text(json.dumps(config))
        path = lora_files.write(
            tmp_path / "adapter_model.safetensors", lora_files.peft(lora_files.flux_diffusers(), rank=8)
        )
        info = inspect(path)
        assert told(info, "adapter_config.json records alpha 32", "a scale of 4") and info.alpha == 32
        assert (info.family, info.base_model) == ("flux", "black-forest-labs/FLUX.1-dev")

    @pytest.mark.parametrize("metadata", [{}, adapter(r=8, lora_alpha=8), adapter(r=16, lora_alpha=16), adapter(r=8)])
    def test_that_is_the_applied_one_needs_no_word(self, tmp_path: Path, metadata: dict[str, str]) -> None:
        assert made(tmp_path, PEFT, metadata).notes == made(tmp_path / "plain", PEFT).notes

    def test_in_the_keys_is_what_inspect_says(self, tmp_path: Path) -> None:
        info = made(tmp_path, KOHYA, {"ss_network_alpha": "16", "ss_network_dim": "8"})
        assert info.alpha == 4.0
        assert told(info, "ss_network_alpha records alpha 16", "the file's keys say 4", "these are applied")
        assert made(tmp_path / "b", KOHYA, {"ss_network_alpha": "4.0", "ss_network_dim": "8"}).notes == ()

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_in_the_keys_is_read_in_any_type(self, tmp_path: Path, dtype: type) -> None:
        tensors = {key: value.astype(dtype) if key.endswith("alpha") else value for key, value in KOHYA.items()}
        assert made(tmp_path, tensors).alpha == 4.0

    def test_that_differs_by_layer_is_not_one_number(self, tmp_path: Path) -> None:
        tensors = {**KOHYA, next(key for key in KOHYA if key.endswith("alpha")): np.array(2.0, np.float32)}
        assert made(tmp_path, tensors).alpha is None


def with_extra(ending: str, replaced: str, shape: tuple[int, ...]) -> Tensors:
    """PEFT's keys with one more for each up matrix."""
    extra = {key.replace(replaced, ending): np.ones(shape, np.float16) for key in PEFT if key.endswith(replaced)}
    return PEFT | extra


class TestParts:
    @pytest.mark.parametrize(
        "ending", ["lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"]
    )
    def test_dora_scales_of_peft(self, tmp_path: Path, ending: str) -> None:
        info = made(tmp_path, with_extra(ending, "lora_B.weight", (8,)))
        assert "dora" in info.algorithms and told(info, "DoRA scales (lora_magnitude_vector", "not applied")

    def test_dora_scales_that_comfyui_reads_need_no_word(self, tmp_path: Path) -> None:
        info = made(tmp_path, lora_files.lycoris("dora", lora_files.flux()))
        assert "dora" in info.algorithms and info.notes == ()
        assert not told(made(tmp_path / "b", with_extra("dora_scale", "lora_B.weight", (8, 1))), "DoRA")

    def test_a_dora_without_its_scales(self, tmp_path: Path) -> None:
        assert told(made(tmp_path, PEFT, adapter(r=8, lora_alpha=8, use_dora=True)), "no DoRA scales")

    def test_biases(self, tmp_path: Path) -> None:
        assert told(
            made(tmp_path, with_extra("lora_B.bias", "lora_B.weight", (8,))), "biases (lora_B.bias)", "not applied"
        )
        assert not told(made(tmp_path / "b", lora_files.control()), "biases")  # ComfyUI reads those of control LoRAs.

    def test_adalora(self, tmp_path: Path) -> None:
        info = made(tmp_path, with_extra("lora_E", "lora_B.weight", (8, 1)))
        assert "adalora" in info.algorithms and told(info, "AdaLoRA", "not applied")


def nunchaku(blocks: int = 1) -> Tensors:
    """FLUX.1 in nunchaku's packed format: fused names, transposed matrices, no ".weight"."""
    tensors: Tensors = {}
    for n in range(blocks):
        for name, out, into in (
            (f"transformer_blocks.{n}.qkv_proj", 9216, 3072),
            (f"transformer_blocks.{n}.mlp_fc1", 12288, 3072),
            (f"transformer_blocks.{n}.mlp_context_fc1", 12288, 3072),
            (f"single_transformer_blocks.{n}.mlp_fc2", 3072, 12288),
        ):
            tensors |= {f"{name}.lora_down": np.zeros((into, 16)), f"{name}.lora_up": np.zeros((out, 16))}
    return tensors


def one_product(role: str, shape: tuple[int, ...], prefix: str = "transformer.") -> Tensors:
    names = (name for name, _, _ in lora_files.flux_diffusers())
    return {f"{prefix}{name}.{role}": np.zeros(shape, np.float16) for name in names}


def xlabs_whole() -> Tensors:
    blocks = [
        f"double_blocks.{n}.processor.{part}_lora{side}"
        for n in range(19)
        for part in ("qkv", "proj")
        for side in (1, 2)
    ]
    blocks += [f"single_blocks.{n}.processor.{part}_lora" for n in range(38) for part in ("qkv", "proj")]
    return lora_files.low_rank([(name, 16, 16) for name in blocks], "", ".down.weight", ".up.weight")


FOREIGN: dict[str, tuple[Tensors, str, str]] = {
    "nunchaku": (nunchaku(), "nunchaku's packed format", "ComfyUI-nunchaku"),
    "nunchaku, double blocks only": (
        {key: value for key, value in nunchaku().items() if not key.startswith("single")}, "nunchaku's packed format",
        "original file"),
    "OFT of PEFT": (one_product("oft_R.weight", (4, 120)), "OFT in PEFT's spelling (oft_R)", "oft_blocks"),
    "OFT of PEFT, its adapter named": (
        one_product("oft_R.default.weight", (4, 120)), "OFT in PEFT's spelling", "oft_blocks"),
    "OFT of OneTrainer": (
        {f"lora_transformer_{name.replace('.', '_')}.oft_R.weight": np.zeros((4, 120)) for name, _, _ in
         lora_files.flux_diffusers()}, "OFT in PEFT's spelling", "oft_blocks"),
    "BOFT of PEFT": (one_product("boft_R", (2, 4, 8, 8)), "BOFT in PEFT's spelling", "LyCORIS"),
    "VeRA": (one_product("vera_lambda_b", (16,)), "VeRA", "LoRA"),
    "IA3 of PEFT": (one_product("ia3_l", (1, 16)), "IA3", "LoRA"),
    "XLabs with some blocks": (lora_files.xlabs(), "XLabs' layout with some blocks only", "diffusers' names"),
    "an adapter with a name": (
        lora_files.low_rank(lora_files.flux_diffusers(), "transformer.", ".lora_A.anna.weight", ".lora_B.anna.weight"),
        "a spelling of its keys that ComfyUI does not know (transformer.", "Save it"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_layout_that_comfyui_reads_nothing_of_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    tensors, what, advice = FOREIGN[name]
    info = made(tmp_path, tensors)
    assert what in info.foreign and advice in info.advice
    assert info.family == "flux"
    with pytest.raises(RylaError) as raised:
        check.require_family(info, "flux")
    assert raised.value.code == "lora_matches_nothing"
    assert what in raised.value.message and "FLUX.1" in raised.value.message and advice in raised.value.hint


READ = {
    "OFT of LyCORIS": (lora_files.lycoris("oft", lora_files.flux()), ("oft",)),
    "BOFT of LyCORIS": (
        {key: np.zeros((2, 4, 16, 16)) if key.endswith("oft_blocks") else value
         for key, value in lora_files.lycoris("oft", lora_files.flux()).items()}, ("boft",)),
    "XLabs with all blocks": (xlabs_whole(), ("lora",)),
    "a control LoRA": (lora_files.control(), ("lora",)),
    "GLoRA": (lora_files.lycoris("glora", lora_files.flux()), ("glora",)),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_comfyui_reads_is_not_called_foreign(tmp_path: Path, name: str) -> None:
    tensors, algorithms = READ[name]
    info = made(tmp_path, tensors)
    assert (info.foreign, info.algorithms, info.family) == ("", algorithms, "flux")


def test_rank_and_width_of_the_packed_format(tmp_path: Path) -> None:
    info = made(tmp_path, nunchaku())
    assert (info.format, info.rank) == ("nunchaku", (16, 16))
    modules = keys.modules({key: ("F16", value.shape) for key, value in nunchaku().items()})
    assert modules["transformer_blocks.0.mlp_fc1"].width == (12288, 3072)


def test_a_quantised_model_with_low_rank_parts_is_no_lora(tmp_path: Path) -> None:
    """nunchaku's own models carry lora_down and lora_up beside the packed weights."""
    tensors = nunchaku() | {"transformer_blocks.0.qkv_proj.wscales": np.zeros((4, 4), np.float16)}
    with pytest.raises(RylaError) as raised:
        made(tmp_path, tensors)
    assert raised.value.code == "not_a_lora" and "nunchaku's SVDQuant" in raised.value.message


def test_pefts_own_prefix_that_matches_nothing_says_what_would(tmp_path: Path) -> None:
    info = made(tmp_path, lora_files.peft(lora_files.flux_diffusers(), "base_model.model."))
    check.require_family(info, "flux")
    with pytest.raises(RylaError) as raised:
        check.require_matches(info, LoraResult(None, None, 0, 0, ("base_model.model.x",)), "flux")
    assert "transformer." in raised.value.hint


@pytest.mark.parametrize(("up", "down"), keys.PAIRS)
def test_the_reader_gives_the_pair_of_each_spelling(up: str, down: str) -> None:
    prefix = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{prefix}{up}": ("F16", (64, 4)), f"{prefix}{down}": ("F16", (4, 32))}
    (module,) = keys.modules(tensors).values()
    assert module.pair == (f"{prefix}{up}", f"{prefix}{down}")
    assert (module.prefix, module.width, module.rank) == (prefix, (64, 32), 4)
