"""8-bit weights kept on the volume: the same picture with and without them, and nothing else ever sees the gap."""

from __future__ import annotations

import copy
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_flux
import torch
from embedded.test_speed import error, latent
from ryla_nodes import files as ryla_files
from ryla_nodes.engines.embedded.inference import flux as flux_module
from ryla_nodes.engines.embedded.inference import speed, weights
from ryla_nodes.engines.embedded.inference.flux import FluxModel
from ryla_nodes.engines.embedded.inference.weights import Placement, WeightFile
from ryla_nodes.engines.loading import reader
from ryla_nodes.engines.loading.unread import UnreadWeight
from ryla_nodes.engines.speed import keeping, layers
from ryla_nodes.errors import RylaError
from ryla_nodes.models import kept, page_cache
from ryla_nodes.models.headers import read_header
from ryla_nodes.workflows import prefetch
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
AS_A_CARD = Placement(CPU, torch.bfloat16)


@pytest.fixture
def volume(tmp_path: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A volume with a transformer of its own; the CPU stands for a card."""
    models = tmp_path / "volume"
    (models / "diffusion_models").mkdir(parents=True)
    shutil.copy(tiny_flux.files(tiny_home / "models").transformer, source_of(models))
    monkeypatch.setenv("RYLA_VOLUME", str(models))
    monkeypatch.setattr(flux_module, "has_bus", lambda device: True)
    monkeypatch.setattr(weights, "has_bus", lambda device: True)
    monkeypatch.setattr(keeping, "_begun", set())
    return models


@pytest.fixture(scope="module")
def texts(loaded: Any) -> tuple[Any, Any]:
    return loaded[1], loaded[2]


@pytest.fixture(autouse=True)
def _read(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Note what is read."""
    original = reader.Reader.start

    def start(self: Any, path: Path, names: Any = None, **how: Any) -> Any:
        chosen = how.get("into") or (read_header(path).tensors if names is None else names)
        READ.extend((path.name, name) for name in chosen)
        return original(self, path, names, **how)

    monkeypatch.setattr(reader.Reader, "start", start)
    READ.clear()
    yield
    READ.clear()


READ: list[tuple[str, str]] = []


def source_of(volume: Path) -> Path:
    return volume / "diffusion_models" / "tiny.safetensors"


def load(volume: Path) -> FluxModel:
    return flux_module.load(WeightFile.open(source_of(volume)), "default", AS_A_CARD)


def keep(volume: Path) -> Path:
    assert keeping.make(volume, source_of(volume), CPU) == ""
    READ.clear()
    return kept.path_of(volume, source_of(volume))


def matrices_read(volume: Path) -> set[str]:
    """The matrices of the blocks that were read from the model's own file."""
    wanted = layers.of_file(read_header(source_of(volume)).tensors)
    return {name for file, name in READ if file == source_of(volume).name and name in wanted}


def waiting(model: FluxModel) -> int:
    return sum(isinstance(weight, UnreadWeight) for weight in model.transformer.network.base.parameters())


def test_a_start_with_kept_weights_reads_no_matrix_and_paints_the_same(
    volume: Path,
    texts: Any,
    graphs: list[Any],
) -> None:
    model = load(volume)
    wanted = latent((None, *texts), speed.accelerate(model, "fast")[0])
    for thread in threading.enumerate():
        if thread.name == "ryla-keep":
            thread.join(60)
    found = keeping.find(volume, source_of(volume), CPU)
    assert found is not None and not waiting(model)
    READ.clear()

    again = load(volume)
    assert waiting(again) == 2 * 8 + 4 * 2 == len(found.weights())
    made = latent((None, *texts), speed.accelerate(again, "fast")[0])
    assert torch.equal(made, wanted)
    assert matrices_read(volume) == set() and waiting(again) == 24
    parameters = sum(weight.nbytes for weight in again.transformer.network.base.parameters())
    assert parameters == sum(weight.nbytes for weight in model.transformer.network.base.parameters())


@pytest.mark.parametrize("mode", ["off", "exact"])
def test_the_other_modes_read_what_was_put_off(
    volume: Path,
    texts: Any,
    graphs: list[Any],
    mode: Any,
) -> None:
    wanted = latent((None, *texts), speed.accelerate(load(volume), mode)[0])
    keep(volume)
    model = load(volume)
    assert waiting(model) == 24
    fast = latent((None, *texts), speed.accelerate(model, "fast")[0])
    assert torch.equal(latent((None, *texts), speed.accelerate(model, mode)[0]), wanted)
    assert len(matrices_read(volume)) == 24 and not waiting(model)
    assert torch.equal(latent((None, *texts), speed.accelerate(model, "fast")[0]), fast)


def test_a_lora_is_merged_into_what_was_put_off(volume: Path, graphs: list[Any]) -> None:
    def patched(model: FluxModel) -> Any:
        name, base = "double_blocks.1.img_mlp.0.weight", model.transformer.network.base
        rows, columns = base.get_parameter(name).shape
        generator = torch.Generator().manual_seed(3)
        up, down = torch.randn(rows, 4, generator=generator), torch.randn(4, columns, generator=generator)
        return model.patched([weights.Patch(name, up, down, 0.3, slice(0, rows))]).transformer.network.module

    plain = {name: value.clone() for name, value in patched(load(volume)).named_parameters()}
    keep(volume)
    model = load(volume)
    assert waiting(model) == 24
    assert all(torch.equal(plain[name], value) for name, value in patched(model).named_parameters())


def touches() -> dict[str, Any]:
    return {
        "a product": lambda weight: torch.nn.functional.linear(torch.ones(1, weight.shape[1]).bfloat16(), weight),
        "sum": lambda weight: weight.sum(),
        "to float": lambda weight: weight.to(torch.float32),
        "a copy": lambda weight: weight.to("cpu", copy=True),
        "deepcopy": copy.deepcopy,
        "clone of data": lambda weight: weight.data.clone(),
        "numpy": lambda weight: weight.data.view(torch.uint8).numpy(),
        "data_ptr": lambda weight: weight.data_ptr(),
        "an item": lambda weight: weight[0, 0].item(),
        "copied from": lambda weight: torch.empty_like(weight).copy_(weight),
        "concatenated": lambda weight: torch.cat([weight, weight]),
        "in place": lambda weight: weight.mul_(1),
        "storage": lambda weight: weight.untyped_storage(),
        "an operator": lambda weight: torch.ops.aten.add(weight, 1),
    }


@pytest.mark.parametrize("how", list(touches()))
def test_whoever_asks_for_content_gets_it(volume: Path, how: str) -> None:
    keep(volume)
    base = load(volume).transformer.network.base
    weight = base.get_parameter("single_blocks.1.linear1.weight")
    assert isinstance(weight, UnreadWeight)
    with torch.inference_mode():
        touches()[how](weight)
    assert type(weight) is torch.nn.Parameter
    truth = load_file(source_of(volume))
    for name, value in base.state_dict().items():
        assert type(value) is torch.Tensor and torch.equal(value, truth[name])


def test_what_asks_for_no_content_reads_nothing(volume: Path) -> None:
    keep(volume)
    model = load(volume)
    base = model.transformer.network.base
    size = sum(value.nelement() * value.element_size() for value in base.state_dict().values())
    assert size == source_of(volume).stat().st_size - read_header(source_of(volume)).starts[first_name(volume)]
    base.to("cpu").eval().requires_grad_(False)
    assert {value.dtype for value in base.parameters()} == {torch.bfloat16}
    weights.shallow_clone(base)
    assert waiting(model) == 24


def first_name(volume: Path) -> str:
    starts = read_header(source_of(volume)).starts
    return min(starts, key=lambda name: starts[name])


def test_a_model_that_is_moved_away_and_back_is_read_to_where_it_is(volume: Path) -> None:
    keep(volume)
    model = load(volume)
    weight = model.transformer.network.base.get_parameter("single_blocks.1.linear1.weight")
    holder = torch.nn.Linear(*reversed(weight.shape), bias=False)
    holder.weight = weight
    assert holder.to("meta").weight.device.type == "meta" and waiting(model) == 24
    aside = holder.to("cpu").weight.to("cpu")
    assert weight.device.type == "cpu" and waiting(model) == 24
    assert torch.equal(weight.float(), load_file(source_of(volume))["single_blocks.1.linear1.weight"].float())
    assert torch.equal(aside, weight) and type(aside) is torch.nn.Parameter


def test_what_is_read_ahead_begins_with_what_fast_needs(volume: Path) -> None:
    source = source_of(volume)
    assert list(prefetch.parts([source], volume)) == [page_cache.whole(source)]
    path = keep(volume)
    parts = list(prefetch.parts([source, path], volume))
    wanted = layers.of_file(read_header(source).tensors)
    starts = {read_header(source).starts[name] for name in wanted}
    places = [(part.path == path, part.start in starts) for part in parts]
    assert places == sorted(places, key=lambda place: (place[1], place[0]))
    assert sorted((part.start, part.end) for part in parts if part.path == source)[0][0] == 0
    assert sum(part.end - part.start for part in parts if part.path == source) == source.stat().st_size


def test_what_fast_does_not_need_is_not_read_once_it_runs_on_kept_weights(
    volume: Path, texts: Any, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, path = source_of(volume), keep(volume)
    wanted = layers.of_file(read_header(source).tensors)
    needless = {read_header(source).starts[name] for name in wanted}
    told: list[bool] = []
    monkeypatch.setattr(prefetch, "eighths_are_used", lambda: told.append(True))
    ahead = prefetch.parts([source], volume, lambda: bool(told))
    first = [next(ahead) for _ in range(len(read_header(source).tensors) - len(wanted) + 2)]
    assert first[-1] == page_cache.whole(path) and not needless & {part.start for part in first}
    assert next(ahead).start in needless, "off and exact do need it"
    latent((None, *texts), speed.accelerate(load(volume), "exact")[0])
    assert not told
    latent((None, *texts), speed.accelerate(load(volume), "fast")[0])
    assert told and list(ahead) == []


def test_a_file_that_was_replaced_meanwhile_is_told(volume: Path) -> None:
    keep(volume)
    model = load(volume)
    os.utime(source_of(volume), (1, 1))
    with pytest.raises(RylaError, match="was changed while it was read") as caught:
        model.transformer.network.base.get_parameter("single_blocks.1.linear1.weight").sum()
    assert caught.value.code == "unreadable_file" and waiting(model) == 24


def other_content(volume: Path, path: Path) -> None:
    tensors = load_file(source_of(volume))
    tensors["single_blocks.1.linear1.weight"] += 1
    status = source_of(volume).stat()
    save_file(tensors, source_of(volume))
    os.utime(source_of(volume), ns=(status.st_atime_ns, status.st_mtime_ns))


def another_maker(volume: Path, path: Path) -> None:
    content = path.read_bytes()
    mine = keeping.maker(CPU).encode()
    path.write_bytes(content.replace(mine, b"9" + mine[1:]))


def cut(volume: Path, path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def touched(volume: Path, path: Path) -> None:
    os.utime(source_of(volume), (1, 1))


def nonsense(volume: Path, path: Path) -> None:
    path.write_bytes(b"nonsense")


@pytest.mark.parametrize("change", [other_content, another_maker, cut, touched, nonsense])
def test_what_is_stale_is_not_used_and_made_anew(volume: Path, change: Any, texts: Any, graphs: list[Any]) -> None:
    path = keep(volume)
    change(volume, path)
    assert keeping.find(volume, source_of(volume), CPU) is None
    model = load(volume)
    assert not waiting(model)
    thread = keeping.begin(model.transformer.network.base, volume, CPU)
    assert thread is not None
    thread.join(60)
    assert keeping.find(volume, source_of(volume), CPU) is not None
    assert waiting(load(volume)) == 24


def test_kept_weights_that_go_before_they_are_read_cost_nothing(
    volume: Path,
    texts: Any,
    graphs: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = latent((None, *texts), speed.accelerate(load(volume), "fast")[0])
    path = keep(volume)
    model = load(volume)
    path.unlink()
    assert torch.equal(latent((None, *texts), speed.accelerate(model, "fast")[0]), wanted)
    assert "cannot be used" in caplog.text


def test_an_interrupted_write_leaves_nothing(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping.fp8, "quantised", stop)
    with pytest.raises(OSError, match="No space"):
        keeping.make(volume, source_of(volume), CPU)
    assert list((volume / "cache").iterdir()) == []
    keeping._keep(volume, source_of(volume), CPU)  # In the background it is one line.
    assert keeping.find(volume, source_of(volume), CPU) is None


def test_a_process_killed_while_it_writes_leaves_a_part_that_goes_later(volume: Path) -> None:
    (volume / "cache").mkdir()
    part = volume / "cache" / ".fp8-tiny.0123.part"
    part.write_bytes(b"half")
    keep(volume)
    assert part.exists(), "another process may be writing it"
    os.utime(part, (1, 1))
    keep(volume)
    assert not part.exists()


def test_a_source_that_changes_while_it_is_quantised_is_not_kept(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = keeping._write

    def write(*arguments: Any) -> None:
        original(*arguments)
        os.utime(source_of(volume), (1, 1))

    monkeypatch.setattr(keeping, "_write", write)
    with pytest.raises(RylaError, match="was changed meanwhile"):
        keeping.make(volume, source_of(volume), CPU)
    assert list((volume / "cache").iterdir()) == []


@pytest.mark.parametrize("hindrance", ["a file", "no room", "too large"])
def test_a_volume_that_takes_nothing_is_one_line(
    volume: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hindrance: str
) -> None:
    if hindrance == "a file":  # What a read-only volume comes to; root may write anywhere.
        (volume / "cache").touch()
    elif hindrance == "no room":
        monkeypatch.setattr(kept, "SPARE_BYTES", 1 << 60)
    else:
        monkeypatch.setattr(kept, "LIMIT_BYTES", 1000)
    keeping._keep(volume, source_of(volume), CPU)
    assert [record.getMessage()[:34] for record in caplog.records] == ["ryla: 8-bit weights are not kept: "]
    assert not (volume / "cache").is_dir() or list((volume / "cache").iterdir()) == []


def test_the_longest_unused_make_room(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = keep(volume).stat().st_size
    for number, age in enumerate((900, 800)):
        old = volume / "cache" / f"fp8-{number}.safetensors"
        old.write_bytes(bytes(size))
        os.utime(old, (age, age))
    monkeypatch.setattr(kept, "LIMIT_BYTES", 2 * size + 100)
    keep(volume)
    assert sorted(path.name for path in (volume / "cache").iterdir()) == sorted(
        ["fp8-0.safetensors", kept.path_of(volume, source_of(volume)).name]
    )


def _make(volume: str) -> None:
    keeping.make(Path(volume), source_of(Path(volume)), CPU)


def test_two_processes_at_once_leave_one_whole_file(volume: Path) -> None:
    context = multiprocessing.get_context("spawn")  # A fork of a process with OpenMP threads can hang.
    both = [context.Process(target=_make, args=(str(volume),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert [path.name for path in (volume / "cache").iterdir()] == [kept.path_of(volume, source_of(volume)).name]
    assert keeping.find(volume, source_of(volume), CPU) is not None


def test_a_model_of_another_kind_is_not_kept(volume: Path, tmp_path: Path) -> None:
    save_file({"single_blocks.0.linear1.weight": torch.ones(32, 16)}, tmp_path / "wide.safetensors")
    assert "no matrices in bfloat16" in keeping.make(volume, tmp_path / "wide.safetensors", CPU)
    assert ryla_files.of_suffix(volume, [".safetensors"]) == []


def test_the_kept_error_is_that_of_quantising(volume: Path) -> None:
    found = load_file(keep(volume))
    truth = load_file(source_of(volume))
    for name, widths in layers.of_file(read_header(source_of(volume)).tensors).items():
        pairs = [kept.names(name, index) for index in range(len(widths))]
        back = torch.cat([found[weight].float() * found[scale] for weight, scale in pairs], dim=1)
        assert back.shape == truth[name].shape and error(back, truth[name].float()) < 0.04
