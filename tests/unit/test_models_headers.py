"""Headers, kinds and damage, from bytes that are really on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from ryla_nodes.errors import RylaError
from ryla_nodes.models.headers import read_header, read_pickle_header
from ryla_nodes.models.identify import FileKind, examine, identify
from unit import models_standins as standins


def _write(folder: Path, data: bytes, name: str = "file.safetensors") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _code(path: Path) -> str:
    with pytest.raises(RylaError) as caught:
        examine(path)
    assert str(path) in caught.value.message
    return caught.value.code


@pytest.mark.parametrize("kind", sorted(standins.SHAPES))
def test_every_kind_is_told_from_its_keys(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, standins.safetensors(standins.SHAPES[kind]))
    assert examine(path) is FileKind(kind)


def test_a_header_gives_shapes_dtypes_and_metadata(tmp_path: Path) -> None:
    data = standins.safetensors({"a": (2, 3)}, metadata={"format": "pt"})
    header = read_header(_write(tmp_path, data))
    assert header.tensors["a"] == ("F16", (2, 3)) and header.shape("a") == (2, 3) and header.shape("b") is None
    assert header.metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"guidance_in.in_layer.weight": None}, FileKind.FLUX_OTHER),  # schnell
        ({"img_in.weight": (256, 384)}, FileKind.FLUX_OTHER),  # Fill
        ({"vector_in.in_layer.weight": None}, FileKind.FLUX_OTHER),  # Chroma
        ({"double_blocks.0.img_attn.qkv.lora_A.weight": (4, 4)}, FileKind.LORA),
    ],
)
def test_relatives_of_flux_are_not_flux_dev(tmp_path: Path, change: dict[str, object], kind: FileKind) -> None:
    shapes = {key: shape for key, shape in {**standins.FLUX, **change}.items() if shape is not None}
    assert examine(_write(tmp_path, standins.safetensors(shapes))) is kind  # type: ignore[arg-type]


def test_flux_with_a_prefix_and_without_encoders_is_a_transformer(tmp_path: Path) -> None:
    shapes = standins.prefixed("model.diffusion_model.", standins.FLUX)
    assert examine(_write(tmp_path, standins.safetensors(shapes))) is FileKind.FLUX_TRANSFORMER


@pytest.mark.parametrize(
    ("shapes", "kind"),
    [
        ({**standins.T5, "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": (32, 4)}, "unknown"),
        (
            {
                "text_model.encoder.layers.0.mlp.fc1.weight": (4, 4),
                "text_model.encoder.layers.30.mlp.fc1.weight": (4, 4),
            },
            "clip_g",
        ),
        (standins.vae(4), "vae_sdxl"),
        ({**standins.SDXL, "model.diffusion_model.input_blocks.0.0.weight": (8, 9, 3, 3)}, "unknown"),
        ({key: shape for key, shape in standins.SDXL.items() if "conditioner" not in key}, "unknown"),
        ({"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3)}, "controlnet_other"),
        ({**standins.ADAPTER, "image_proj.proj_in.weight": (8, 1280)}, "unknown"),
        ({"lora_unet_input_blocks_1_1_proj_in.lora_down.weight": (4, 4)}, "lora"),
        ({"something.else": (1,)}, "unknown"),
    ],
)
def test_near_misses(tmp_path: Path, shapes: standins.Shapes, kind: str) -> None:
    assert identify(read_header(_write(tmp_path, standins.safetensors(shapes)))).value == kind


def test_every_truncation_of_a_file_is_noticed(tmp_path: Path) -> None:
    data = standins.safetensors(standins.CLIP_L)
    for length in (1, 7, 8, 40, len(data) // 2, len(data) - 1):
        code = _code(_write(tmp_path, data[:length]))
        assert code == ("not_safetensors" if length <= 8 else "truncated_file"), length


@pytest.mark.parametrize(
    ("data", "code", "word"),
    [
        (b"", "empty_file", "0 bytes"),
        (b"<!DOCTYPE html><html>Log in</html>", "not_safetensors", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4610\n", "not_safetensors", "LFS pointer"),
        (b"PK\x03\x04" + bytes(40), "not_safetensors", "zip"),
        (b"GGUF" + bytes(40), "not_safetensors", "GGUF"),
        (b"\xff" * 64, "not_safetensors", "header length"),
        ((20).to_bytes(8, "little") + b"x" * 40, "not_safetensors", "JSON"),
        ((20).to_bytes(8, "little") + b'{"a": 1            }', "not_safetensors", "lacks"),
        (standins.safetensors({"a": (4,)}) + b"tail", "not_safetensors", "follow"),
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, data: bytes, code: str, word: str) -> None:
    path = _write(tmp_path, data)
    with pytest.raises(RylaError, match=word) as caught:
        read_header(path)
    assert caught.value.code == code


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    assert _code(tmp_path / "gone.safetensors") == "unreadable_file"
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert _code(folder) == "unreadable_file"


def test_a_pickled_adapter_is_read_without_torch(tmp_path: Path) -> None:
    path = _write(tmp_path, standins.adapter_bin(), "ip-adapter.bin")
    header = read_pickle_header(path)
    assert header.tensors["image_proj.proj_in.weight"] == ("F16", (8, 512))
    assert examine(path) is FileKind.INSTANTID_ADAPTER


def test_a_pickle_that_wants_to_run_something_is_refused_and_does_not_run(tmp_path: Path) -> None:
    import pickle
    import zipfile

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "evil.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": Evil()}))
    assert _code(path) == "unsafe_pickle"
    assert not (tmp_path / "ran").exists()


def test_damaged_pickles_and_onnx_files(tmp_path: Path) -> None:
    adapter = standins.adapter_bin()
    assert _code(_write(tmp_path, adapter[:-30], "a.bin")) == "truncated_file"
    assert _code(_write(tmp_path, b"\x80\x02garbage", "b.bin")) == "unsafe_pickle"
    assert _code(_write(tmp_path, b"", "c.bin")) == "empty_file"
    model = standins.onnx(bytes(500))
    assert examine(_write(tmp_path, model, "d.onnx")) is FileKind.UNKNOWN
    assert _code(_write(tmp_path, model[:-1], "e.onnx")) == "truncated_file"
    assert _code(_write(tmp_path, b"<html>no", "f.onnx")) in ("unreadable_file", "truncated_file")
    assert _code(_write(tmp_path, b"\x08\x08", "g.onnx")) == "unreadable_file"
    assert _code(_write(tmp_path, b"{oops", "h.json")) == "unreadable_file"
