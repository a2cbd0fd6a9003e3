"""The small models: made once, whole, the same everywhere, of the kinds that they say."""

from __future__ import annotations

import os
import time
from pathlib import Path

import made_up
import pytest
import tiny_flux
import torch
from ryla_nodes.engines.embedded.inference import tokenizers
from ryla_nodes.models.headers import read_header
from ryla_nodes.models.identify import FileKind, identify
from safetensors.torch import load_file

KINDS = {
    "transformer": FileKind.FLUX_TRANSFORMER,
    "clip_l": FileKind.CLIP_L,
    "t5xxl": FileKind.T5XXL,
    "vae": FileKind.VAE_FLUX,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the small Flux."""
    folder = tmp_path_factory.mktemp("models")
    tiny_flux.ensure(folder)
    return folder


def paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_same_bytes_every_time(models: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    tiny_flux.ensure(tmp_path)
    assert time.monotonic() - start < 10
    first, second = paths(models), paths(tmp_path)
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert sum(path.stat().st_size for path in first) < 60e6


@pytest.mark.parametrize("part", KINDS)
def test_each_file_is_known_by_its_header(models: Path, part: str) -> None:
    path = getattr(tiny_flux.files(models), part)
    assert identify(read_header(path)) is KINDS[part]


def test_weights_are_finite_and_of_the_real_files_dtypes(models: Path) -> None:
    files = tiny_flux.files(models)
    dtypes = {"transformer": torch.bfloat16, "clip_l": torch.float16, "t5xxl": torch.float16, "vae": torch.float32}
    for part, dtype in dtypes.items():
        tensors = load_file(getattr(files, part))
        assert {tensor.dtype for tensor in tensors.values()} == {dtype}
        assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_what_is_there_is_left_alone(models: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in paths(models)}
    tiny_flux.ensure(models)
    assert before == {path: path.stat().st_mtime_ns for path in paths(models)}


def test_a_damaged_or_older_set_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_flux.ensure(tmp_path)
    whole = made.transformer.read_bytes()
    made.transformer.write_bytes(whole[:-100])
    tiny_flux.ensure(tmp_path)
    assert made.transformer.read_bytes() == whole

    assert made.clip_l is not None
    tokenizers.beside(made.clip_l).unlink()
    tiny_flux.ensure(tmp_path)
    assert tokenizers.beside(made.clip_l).is_file()

    monkeypatch.setattr(made_up, "VERSION", "other")
    tiny_flux.ensure(tmp_path)
    assert read_header(made.transformer).metadata["ryla_small_models"] == "other"


def test_files_get_the_users_own_permissions(models: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in paths(models)} == {0o666 & ~mask}
