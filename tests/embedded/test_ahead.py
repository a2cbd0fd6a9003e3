"""Blocks compiled ahead: real packages of the small FLUX.1, made by the real process, then served or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import packages_ahead
import pytest
import tiny_flux
import torch
from packages_ahead import MAKE, Loaded, Packaged, as_if_started, latent, single
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.embedded.inference import demo_lora, speed
from ryla_nodes.engines.protocol import SpeedMode
from ryla_nodes.engines.speed import artifact, cache, child, compiler, making, warming
from ryla_nodes.engines.speed.artifact import Call
from ryla_nodes.models.headers import read_header
from ryla_nodes.models.locks import locked

CPU = torch.device("cpu")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def packaged(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    """Packages of ``exact``, and of ``fast`` for single blocks."""
    yield packages_ahead.make(loaded, tmp_path_factory.mktemp("volume"), lambda given: given[:2] + given[3:])
    packages_ahead.forget_folders()


@pytest.fixture
def started(packaged: Packaged, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A process that may use the packages; the names of functions that none was found for."""
    compiled: list[str] = []

    def instead(function: Any) -> Any:
        compiled.append(function.__name__)
        return function

    as_if_started(monkeypatch, packaged.volume)
    monkeypatch.setattr(compiler, "_compiled", instead)
    monkeypatch.setattr(making, "_make", lambda orders: None)
    yield compiled
    making.wait()
    packages_ahead.forget_folders()


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


_PAINT = """
import json, sys
from pathlib import Path
import small_models, torch
from ryla_nodes.engines.embedded.inference import speed
from ryla_nodes.engines.speed import ahead, artifact, cache, machine
machine.refusal = lambda mode, device: None
cache.name_of = lambda *_: "inductor-both"
served = []
serve = artifact.Artifact.serve
def counting(*given):
    made = serve(*given)
    served.append(made is not None)
    return made
artifact.Artifact.serve = counting
loaded = small_models.load(Path(sys.argv[1]))
ahead.begin(["exact"], lambda: torch.device("cpu"))
model = speed.accelerate(loaded[0], "exact")[0]
made = small_models.latent((model, *loaded[1:]))
torch.save(made, sys.argv[2])
heavy = ("torch._dynamo", "torch._inductor", "triton", "sympy")
print(json.dumps([served.count(True), served.count(False), [name for name in heavy if name in sys.modules]]))
"""


def test_a_new_process_paints_with_packages_and_imports_nothing_of_the_compiler(
    packaged: Packaged, engine: EmbeddedEngine, tmp_path: Path
) -> None:
    unset = {key: value for key, value in os.environ.items() if key not in cache._VARIABLES}
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", _PAINT, str(engine.home), str(tmp_path / "made.pt")],
        capture_output=True,
        text=True,
        env={**unset, "RYLA_VOLUME": str(packaged.volume), "RYLA_AHEAD": "1", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    served, refused, imported = json.loads(done.stdout.splitlines()[-1])
    assert served == 3 * (2 + 4) and refused == 0 and imported == []
    assert error(torch.load(tmp_path / "made.pt"), packaged.pictures["exact"]) < 1e-4


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_packages_paint_what_the_blocks_paint(
    packaged: Packaged, loaded: Loaded, started: list[str], mode: SpeedMode
) -> None:
    made = latent(loaded, speed.accelerate(loaded[0], mode)[0])
    left = {"exact": set(), "fast": {"_double"}}[mode]
    # In 8 bits another order of additions may round to the next number.
    assert set(started) == left and error(made, packaged.pictures[mode]) < (1e-4 if mode == "exact" else 0.05)
    plain = latent(loaded, loaded[0])
    latent(loaded, speed.accelerate(loaded[0], mode)[0], size=(96, 64), prompt="a red cat on a long long roof")
    assert set(started) == left, "other sizes and prompts need no others"
    assert torch.equal(latent(loaded, loaded[0]), plain)


def test_a_package_gives_what_the_compiler_gives(packaged: Packaged, loaded: Loaded, started: list[str]) -> None:
    call = single(packaged, loaded)
    with torch.inference_mode():
        made = artifact.of(call.kept, call.function, CPU).serve(call)
        wanted = torch.compile(call.function)(call.block, *call.tensors)
    assert made is not None and torch.equal(made, wanted)


def served(call: Call, grad: bool = False) -> bool:
    with torch.set_grad_enabled(grad):
        return artifact.of(call.kept, call.function, CPU).serve(call) is not None


def test_what_a_package_was_not_made_for_is_refused(packaged: Packaged, loaded: Loaded, started: list[str]) -> None:
    call = single(packaged, loaded)
    x, vector, rope = call.tensors
    assert served(call) and served(single(packaged, loaded, tokens=4000, number=1))
    refused = {
        "other strides": (x.transpose(1, 2).contiguous().transpose(1, 2), vector, rope),
        "another dtype": (x.bfloat16(), vector, rope),
        "a batch": (x.repeat(2, 1, 1), vector, rope),
        "another width": (x[..., :128].contiguous(), vector, rope),
        "one token": (x[:, :1].contiguous(), vector, rope[:1].contiguous()),
        "fewer places than tokens": (x, vector, rope[:-1].contiguous()),
        "more tokens than it holds for": (x.repeat(1, 3000, 1), vector, rope.repeat(3000, 1, 1)),
    }
    for name, tensors in refused.items():
        assert not served(replace(call, tensors=tensors)), name
    assert not served(call, grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not served(call)
    assert served(call)


def test_a_block_that_was_changed_is_refused(
    packaged: Packaged, loaded: Loaded, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = single(packaged, loaded)
    assert served(call)
    hook = call.block.norm.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    assert not served(call)
    hook.remove()
    assert served(call)
    act = call.block.mlp_act
    call.block.mlp_act = torch.nn.ReLU()
    assert not served(call)
    call.block.mlp_act = act
    weight = call.block.linear2.weight  # type: ignore[union-attr]
    call.block.linear2.weight = torch.nn.Parameter(weight.bfloat16(), requires_grad=False)  # type: ignore[union-attr]
    assert not served(call)
    call.block.linear2.weight = weight  # type: ignore[union-attr]
    assert served(call)
    monkeypatch.setattr(speed, "attend", lambda *given: None)
    assert not served(call), "another pack put its own function there"


def test_a_lora_is_only_other_weights(
    packaged: Packaged, engine: EmbeddedEngine, loaded: Loaded, started: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "lora.safetensors"
    demo_lora.write(path, read_header(tiny_flux.files(engine.home / "models").transformer), "kohya", "ohwx")
    patched = engine.apply_lora(loaded[0], None, path, 1.0, 1.0).model
    wanted = latent(loaded, patched)
    assert error(latent(loaded, speed.accelerate(patched, "exact")[0]), wanted) < 1e-4 and started == []
    assert error(latent(loaded, speed.accelerate(patched, "fast")[0]), wanted) < 0.1 and set(started) == {"_double"}
    assert error(wanted, packaged.pictures["exact"]) > 0.01


def test_a_batch_runs_sample_by_sample(packaged: Packaged, loaded: Loaded, started: list[str]) -> None:
    exact = speed.accelerate(loaded[0], "exact")[0]
    x, sigma = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(0.7)
    conditioning = loaded[1].encode(loaded[1].tokenize("a red cat"))
    with torch.inference_mode():
        made = exact.denoise(x, sigma, conditioning, False)
        assert started == [] and error(made, loaded[0].denoise(x, sigma, conditioning, False)) < 1e-4


def copied(packaged: Packaged, target: Path) -> Path:
    """The packages alone, in a volume of their own."""
    for path in packaged.volume.glob("cache/inductor-*/*.*"):
        if path.suffix in (".pt2", ".json"):
            where = target / path.relative_to(packaged.volume)
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("what", ["a bit", "cut", "no json", "cut json", "another json", "another PyTorch"])
def test_a_damaged_or_foreign_package_is_not_loaded(
    packaged: Packaged,
    loaded: Loaded,
    started: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    volume = copied(packaged, tmp_path)
    monkeypatch.setenv("RYLA_VOLUME", str(volume))
    monkeypatch.delenv("RYLA_AHEAD", raising=False)
    for path in volume.glob("cache/*/single-*.pt2"):
        content, about = path.read_bytes(), path.with_suffix(".json")
        middle = len(content) // 2
        if what == "a bit":
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        elif what == "cut":
            path.write_bytes(content[:middle])
        elif what == "no json":
            about.unlink()
        elif what == "cut json":
            about.write_bytes(about.read_bytes()[:-9])
        elif what == "another json":
            about.write_text('{"facts": {}, "sums": {}, "sha256": ""}')
    if what == "another PyTorch":
        monkeypatch.setattr(torch, "__version__", "2.99.0")
    made = latent(loaded, speed.accelerate(loaded[0], "exact")[0])
    assert set(started) == ({"_double", "_single"} if what == "another PyTorch" else {"_single"})
    assert error(made, packaged.pictures["exact"]) < 1e-4
    assert ("is damaged, and not used" in caplog.text) == (what in ("a bit", "cut", "another json"))


def test_a_volume_that_takes_nothing_is_read(
    packaged: Packaged, loaded: Loaded, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_prepare", lambda folder: "compiled code is not kept: read-only file system")
    exact, said = speed.accelerate(loaded[0], "exact")
    assert "not kept" in said and error(latent(loaded, exact), packaged.pictures["exact"]) < 1e-4 and started == []
    monkeypatch.setattr(os, "access", lambda *_: False)
    wanted: list[Any] = []
    monkeypatch.setattr(making.pickle, "dumps", wanted.append)
    call = single(packaged, loaded)
    call.block.linear1.bias = None
    with torch.inference_mode():
        making.want(call)
    assert wanted == []


def test_a_second_maker_gives_way_and_what_is_there_is_not_made_again(packaged: Packaged) -> None:
    paths = sorted(packaged.volume.glob("cache/inductor-*/*.pt2"))
    assert len(paths) == len(packaged.orders) == 3
    before = {path: path.stat().st_mtime_ns for path in paths}
    taken = paths[0].with_suffix(".taken")
    paths[0].rename(taken)
    with locked(paths[0].parent / "making.lock", lambda _: pytest.fail("held")):
        for order in packaged.orders:
            ended = child.run("exporting", 0, order)
            assert ended.code == 0, ended.said
        assert not paths[0].exists()
    taken.rename(paths[0])
    for order in packaged.orders:
        assert child.run("exporting", 0, order).code == 0
    assert before == {path: path.stat().st_mtime_ns for path in paths}
    assert not list(packaged.volume.rglob("*.part"))


def test_what_cannot_be_made_is_one_line(
    packaged: Packaged, loaded: Loaded, started: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    order = making.pickle.loads(packaged.orders[0])
    order.facts["code"] = "another"
    order = replace(order, call=replace(order.call, kept=replace(order.call.kept, folder=packaged.volume)))
    MAKE([making.pickle.dumps(order)])
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    code = artifact.surroundings(order.call)["code"]
    assert lines == [
        "ryla: blocks are not compiled ahead: "
        f"RuntimeError: another process of this machine has other code ({code}, not another)"
    ]


def test_the_compiler_is_not_made_ready_where_there_are_packages(
    packaged: Packaged, started: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(1) or (lambda *_: None))
    warming.warm("exact", CPU, packaged.volume)
    assert compiled == []
    warming.warm("fast", CPU, packaged.volume)
    assert compiled == [1], "there is none for double blocks"
    warming.warm("exact", CPU, tmp_path)
    assert compiled == [1, 1]


def test_nothing_is_made_while_blocks_run(
    packaged: Packaged, loaded: Loaded, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(making, "_IDLE_S", 0.3)
    monkeypatch.setattr(making, "_make", lambda orders: made.append(len(orders)))
    calls = [single(packaged, loaded, number=number) for number in range(3)]
    for call in calls:
        call.block.linear1.bias = None  # type: ignore[union-attr]
    with torch.inference_mode(), making.running():
        for call in calls:
            making.want(call)
        time.sleep(0.8)
        assert made == []
    thread = making._thread
    assert thread is not None
    thread.join(10)
    assert made == [1], "one package serves all blocks of a kind"
