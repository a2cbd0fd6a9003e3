"""The reader of weight files with several threads, on the CPU: whole, damaged, changed, interrupted."""

from __future__ import annotations

import gc
import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from ryla_nodes.engines.loading import layout, reader
from ryla_nodes.engines.loading.reader import Reader
from ryla_nodes.errors import RylaError
from ryla_nodes.models.headers import read_header
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
CHUNK = 4096


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """One tensor of every dtype, some larger than a chunk, some empty, some of one element."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, (name, dtype) in enumerate(layout.DTYPES.items()):
        raw = torch.randint(0, 2 if dtype is torch.bool else 256, (37 * (number + 1) * 8 * 16,), generator=generator)
        found[name] = raw.to(torch.uint8).view(dtype) if dtype is not torch.bool else raw.bool()
    found["large"] = torch.randn(3, 5, 1031, generator=generator)
    found["empty"] = torch.zeros(4, 0, 2, dtype=torch.bfloat16)
    found["scalar"] = torch.tensor(1.5)
    return found


def read(path: Path, threads: int = 3) -> dict[str, torch.Tensor]:
    with Reader(CPU, threads, CHUNK) as loader:
        return loader.start(path).tensors()


def same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> bool:
    def raw(tensor: torch.Tensor) -> tuple[object, ...]:
        return tensor.shape, tensor.dtype, tensor.contiguous().view(-1).view(torch.uint8).tolist()

    return found.keys() == wanted.keys() and all(raw(found[name]) == raw(wanted[name]) for name in wanted)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(tensors(), path)
    return path


@pytest.mark.parametrize("threads", [1, 8])
def test_every_dtype_is_read_as_safetensors_reads_it(file: Path, threads: int) -> None:
    assert same(read(file, threads), load_file(file))


def write_raw(path: Path, entries: Mapping[str, tuple[str, list[int], list[int]]], data: bytes) -> Path:
    header = {
        name: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) for name, entry in entries.items()
    }
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def test_tensors_at_odd_places_are_read(tmp_path: Path) -> None:
    data = os.urandom(1 + 4000)
    path = write_raw(tmp_path / "odd.safetensors", {"a": ("U8", [1], [0, 1]), "b": ("F32", [1000], [1, 4001])}, data)
    found = read(path)
    assert found["b"].view(torch.uint8).numpy().tobytes() == data[1:]


@pytest.mark.parametrize(
    ("entries", "length", "code"),
    [
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])}, 12, "not_safetensors"),  # Overlap.
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [12, 20])}, 20, "not_safetensors"),  # A gap.
        ({"a": ("F32", [3], [0, 8])}, 8, "not_safetensors"),  # The shape needs more than there is.
        ({"a": ("F32", [2], [0, 12])}, 12, "not_safetensors"),  # And less.
        ({"a": ("F4", [16], [0, 8])}, 8, "unsupported_weights"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, entries: dict[str, tuple[str, list[int], list[int]]], length: int, code: str
) -> None:
    path = write_raw(tmp_path / "wrong.safetensors", entries, bytes(length))
    with pytest.raises(RylaError) as caught:
        read(path)
    assert caught.value.code == code and str(path) in caught.value.message
    assert layout.readable(read_header(path)) is (code == "not_safetensors")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RylaError) as caught:
        read(tmp_path / "none.safetensors")
    assert caught.value.code == "unreadable_file"


def test_a_truncated_file_is_refused(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(RylaError) as caught:
        read(file)
    assert caught.value.code == "truncated_file"


class Gate:
    """Holds the reader's threads at their first part until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        original = reader._read

        def gated(*arguments: object) -> None:
            self.entered.set()
            assert self.opened.wait(20)
            original(*arguments)  # type: ignore[arg-type]

        patch.setattr(reader, "_read", gated)


def grow(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def replace(path: Path) -> None:
    other = path.with_name("other")
    save_file(tensors(1), other)
    os.utime(other, ns=(1, 1))
    other.replace(path)


def cut(path: Path) -> None:
    os.truncate(path, 999)


@pytest.mark.parametrize("change", [grow, replace, cut])
def test_a_file_that_is_changed_while_it_is_read_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    gate = Gate(monkeypatch)
    with Reader(CPU, 1, CHUNK) as loader, pytest.raises(RylaError) as caught:
        reading = loader.start(file)
        assert gate.entered.wait(20)
        change(file)
        gate.opened.set()
        reading.tensors()
    assert caught.value.code in ("unreadable_file", "truncated_file") and str(file) in caught.value.message


def test_two_readers_and_several_files_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for number, path in enumerate(paths):
        save_file(tensors(number), path)
    with Reader(CPU, 4, CHUNK) as one, Reader(CPU, 4, CHUNK) as other:
        readings = [loader.start(path) for path in paths for loader in (one, other)]
        found = [reading.tensors() for reading in reversed(readings)][::-1]
    for number in range(4):
        assert same(found[2 * number], tensors(number)) and same(found[2 * number + 1], tensors(number))


class Stop(Exception):
    """Stands for an engine's interrupt."""


def test_an_interrupt_ends_the_threads_and_frees_the_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, before = Gate(monkeypatch), threading.active_count()
    held: list[weakref.ref[torch.Tensor]] = []

    def check() -> None:
        assert gate.entered.wait(20)
        gate.opened.set()
        raise Stop

    def interrupted() -> None:
        with Reader(CPU, 2, CHUNK) as loader:
            reading = loader.start(file)
            held.extend(weakref.ref(tensor) for tensor in reading.targets.values())
            reading.tensors(check)

    with pytest.raises(Stop):
        interrupted()
    gc.collect()
    assert held and not any(reference() is not None for reference in held)
    assert threading.active_count() == before


def test_what_nobody_took_is_let_go(file: Path) -> None:
    with Reader(CPU, 2, CHUNK) as loader:
        reading = loader.start(file)
    assert not reading.targets


def test_in_inference_mode_as_nodes_run(file: Path) -> None:
    with torch.inference_mode():
        found = read(file)
        found["large"].mul_(2)
    assert same({"scalar": found["scalar"]}, {"scalar": torch.tensor(1.5)})
