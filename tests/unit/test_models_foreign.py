"""Model files that people really have and that other loaders read: each is told by its name, with what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import pytest
from ryla_nodes.errors import RylaError
from ryla_nodes.identity import evaluate
from ryla_nodes.models import flux_files, link
from ryla_nodes.models.folders import at_root
from ryla_nodes.models.identify import FileKind, describe, examine
from unit import models_standins as standins

SIZES = {"U8": 1, "I8": 1, "U32": 4, "I32": 4, "F16": 2, "F32": 4, "BF16": 2}
COMPANION = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4000)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 260665334\n"
PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
REFUSAL = b"Access to model black-forest-labs/FLUX.1-dev is restricted. You must be authenticated to access it."


def file(path: Path, tensors: Mapping[str, tuple[str, Sequence[int]]]) -> Path:
    """A safetensors file of zeros of these types and shapes."""
    header, end = {}, 0
    for key, (dtype, shape) in tensors.items():
        size = SIZES[dtype] * prod(shape)
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    return put(path, len(raw).to_bytes(8, "little") + raw + bytes(end))


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def packed(prefix: str, *extra: tuple[str, str]) -> dict[str, tuple[str, Sequence[int]]]:
    """FLUX.1 Dev's telling tensors with packed weights and what a format adds to each: (ending, dtype)."""
    layers = ("img_in", "guidance_in.in_layer", "vector_in.in_layer", "double_blocks.0.img_attn.qkv")
    weights = {f"{prefix}{name}.weight": ("U8", (64, 1)) for name in layers}
    return weights | {f"{prefix}{name}{ending}": (dtype, (8,)) for name in layers for ending, dtype in extra}


SVDQUANT = {
    "transformer_blocks.0.qkv_proj.qweight": ("I8", (4, 4)),
    "transformer_blocks.0.qkv_proj.lora_down": ("F16", (4, 4)),
    "single_transformer_blocks.0.mlp_fc1.wscales": ("F16", (4,)),
    "time_text_embed.guidance_embedder.linear_1.weight": ("F16", (4, 4)),
}
QUANTISED = {
    "NF4": (packed("model.diffusion_model.", (".weight.quant_state.bitsandbytes__nf4", "U8")),
            "FLUX.1 Dev in bitsandbytes' NF4, which needs another loader (ComfyUI_bitsandbytes_NF4)"),
    "FP4": (packed("", (".weight.quant_state.bitsandbytes__fp4", "U8")), "FLUX.1 Dev in bitsandbytes' FP4"),
    "INT8": (packed("", (".SCB", "F32")), "FLUX.1 Dev in bitsandbytes' INT8"),
    "SVDQuant": (SVDQUANT, "FLUX.1 Dev in nunchaku's SVDQuant, which needs another loader (ComfyUI-nunchaku)"),
    "GPTQ": (packed("", (".qzeros", "I32")), "GPTQ's or AWQ's format"),
    "quanto": (packed("", (".weight._data", "I8")), "optimum-quanto's format"),
    "HQQ": (packed("", (".W_q", "U8")), "HQQ's format"),
    "SDNQ": (packed("", (".zero_point", "F16")), "SDNQ's format"),
    "MLX": ({"double_blocks.0.img_attn.qkv.weight": ("U32", (4, 4)), "double_blocks.0.img_attn.qkv.scales":
             ("F16", (4,))}, "MLX' format"),
    "a T5 in INT8": ({"encoder.block.0.layer.1.DenseReluDense.wi_1.weight": ("I8", (4, 4)),
                      "encoder.block.0.layer.1.DenseReluDense.wi_1.SCB": ("F32", (4,))},
                     "a T5 text encoder in bitsandbytes' INT8"),
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_model_is_named_with_its_loader(tmp_path: Path, name: str) -> None:
    tensors, words = QUANTISED[name]
    path = file(tmp_path / "checkpoints" / "x.safetensors", tensors)
    kind = examine(path)
    assert kind is FileKind.QUANTISED and words in describe(path, kind)
    with pytest.raises(RylaError) as raised:
        flux_files.locate(at_root(tmp_path), "x.safetensors", "auto")
    assert raised.value.code == "wrong_model_kind" and words in raised.value.message
    assert raised.value.hint == "ryla models install flux-dev"


def test_what_comfyui_itself_reads_is_not_foreign(tmp_path: Path) -> None:
    scaled = {key: ("F16", shape) for key, shape in standins.FLUX.items()}
    scaled |= {"scaled_fp8": ("F16", (2,)), "img_in.scale_weight": ("F32", (1,)), "img_in.comfy_quant": ("U8", (4,))}
    assert examine(file(tmp_path / "x.safetensors", scaled)) is FileKind.FLUX_TRANSFORMER


SHARD = "FLUX.1-dev/transformer/diffusion_pytorch_model-00001-of-00003.safetensors"


def test_a_part_of_a_sharded_model_is_told_and_not_offered(tmp_path: Path) -> None:
    put(tmp_path / "diffusion_models" / SHARD, standins.safetensors(standins.FLUX))
    with pytest.raises(RylaError) as raised:
        flux_files.locate(at_root(tmp_path), SHARD, "auto")
    assert "part 1 of 3 of a model in diffusers' folder layout" in raised.value.message
    assert flux_files.choices(at_root(tmp_path)) == ["auto"]


def test_a_part_of_a_text_encoder_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    put(tmp_path / "text_encoders" / "model-00001-of-00002.safetensors", standins.safetensors(standins.T5))
    put(tmp_path / "diffusion_models" / "flux1-dev.safetensors", standins.safetensors(standins.FLUX))
    put(tmp_path / "text_encoders" / "clip_l.safetensors", standins.safetensors(standins.CLIP_L))
    put(tmp_path / "vae" / "ae.safetensors", standins.safetensors(standins.vae(16)))
    with pytest.raises(RylaError) as raised:
        flux_files.locate(at_root(tmp_path), "auto", "auto")
    assert raised.value.code == "missing_model" and "t5xxl" in raised.value.message
    assert (
        examine(put(tmp_path / "model-00001-of-00001.safetensors", standins.safetensors(standins.T5))) is FileKind.T5XXL
    )


def test_diffusers_layout_in_one_file_is_told(tmp_path: Path) -> None:
    keys = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.attn.to_q", "x_embedder")
    tensors = {f"{key}.weight": ("BF16", (4, 4)) for key in (*keys, "time_text_embed.guidance_embedder.linear_1")}
    path = file(tmp_path / "diffusion_models" / "diffusion_pytorch_model.safetensors", tensors)
    with pytest.raises(RylaError) as raised:
        flux_files.locate(at_root(tmp_path), path.name, "auto")
    assert "FLUX.1 Dev in diffusers' layout" in raised.value.message


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".onnx", ".SAFETENSORS", ".pt"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (PAGE, "a web page"),
        (LFS, "a Git LFS pointer"),
        (REFUSAL, "text, not weights: 'Access to model black-forest-labs/FLUX.1-dev is restricted"),
        (b'{"error":"Invalid username or password."}', "Invalid username or password."),
        (b"Entry not found", "'Entry not found'"),
        ("Zugriff verweigert für Ärzte".encode() * 40, "Zugriff verweigert für Ärzte"),
        (COMPANION, "the companion that macOS makes"),
    ],
)
def test_what_was_saved_in_place_of_a_file_is_named_in_every_format(
    tmp_path: Path, suffix: str, data: bytes, words: str
) -> None:
    path = put(tmp_path / f"model{suffix}", data)
    with pytest.raises(RylaError) as raised:
        examine(path)
    assert words in raised.value.message and str(path) in raised.value.message
    assert raised.value.code in ("not_safetensors", "unsafe_pickle", "unreadable_file")


def test_a_gguf_file_gets_a_next_step_that_can_help(tmp_path: Path) -> None:
    put(tmp_path / "diffusion_models" / "flux1-dev-Q8_0.gguf", b"GGUF\x03" + bytes(1000))
    assert flux_files.choices(at_root(tmp_path)) == ["auto"]
    with pytest.raises(RylaError) as raised:
        flux_files.locate(at_root(tmp_path), "flux1-dev-Q8_0.gguf", "auto")
    assert "GGUF" in raised.value.message and "ComfyUI-GGUF" in raised.value.hint
    assert "--repair" not in raised.value.hint


def test_a_real_header_that_begins_like_a_pickle_is_read(tmp_path: Path) -> None:
    """The length of a header comes first: one of 640 bytes begins with 80 02, one of 2,570 with two line feeds."""
    for length, start in ((640, b"\x80\x02"), (2570, b"\n\n")):
        data = standins.safetensors({"x" * (length - len(standins.safetensors({"": (1,)})) + 10): (1,)})
        assert data.startswith(start), data[:2]
        assert examine(put(tmp_path / "x.safetensors", data)) is FileKind.UNKNOWN


def test_suffixes_in_capitals_are_read_by_their_format(tmp_path: Path) -> None:
    path = put(tmp_path / "diffusion_models" / "FLUX1.SAFETENSORS", standins.safetensors(standins.FLUX))
    assert examine(path) is FileKind.FLUX_TRANSFORMER
    assert "FLUX1.SAFETENSORS" in flux_files.choices(at_root(tmp_path))
    assert examine(put(tmp_path / "IP-ADAPTER.BIN", standins.adapter_bin())) is FileKind.INSTANTID_ADAPTER
    assert examine(put(tmp_path / "M.ONNX", standins.onnx(bytes(50)))) is FileKind.UNKNOWN
    with pytest.raises(RylaError):
        examine(put(tmp_path / "N.ONNX", standins.onnx(bytes(50))[:-1]))


class TestCompanionsOfMacOS:
    def test_are_neither_offered_nor_linked_nor_found(self, tmp_path: Path) -> None:
        volume = tmp_path / "volume"
        for name in ("._flux1-dev.safetensors", "sub/._x.safetensors", "flux1-dev.safetensors"):
            put(volume / "diffusion_models" / name, COMPANION)
        put(volume / "insightface" / "faces" / "._anna.safetensors", COMPANION)
        assert flux_files.choices(at_root(volume)) == ["auto", "flux1-dev.safetensors"]
        assert at_root(volume).list("insightface") == []
        linked = link.link_files(volume, tmp_path / "ComfyUI")
        assert [made.place.name for made in linked] == ["flux1-dev.safetensors"]

    def test_one_that_is_named_says_what_it_is(self, tmp_path: Path) -> None:
        put(tmp_path / "diffusion_models" / "._flux1-dev.safetensors", COMPANION)
        with pytest.raises(RylaError) as raised:
            flux_files.locate(at_root(tmp_path), "._flux1-dev.safetensors", "auto")
        assert "macOS" in raised.value.message and raised.value.hint.startswith("Delete it")

    def test_are_no_photos(self, tmp_path: Path) -> None:
        for name in ("reference.jpg", "._reference.jpg", "out1.jpg", "._out1.jpg"):
            put(tmp_path / "anna" / name, b"x")
        (person,) = evaluate.find_people(tmp_path)
        assert [path.name for path in (*person.references, *person.outputs)] == ["reference.jpg", "out1.jpg"]
