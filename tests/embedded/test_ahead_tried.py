"""A package is tried before anybody gets it: by the real process, with the block as it is, or as these put it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import packages_ahead
import pytest
import torch
from packages_ahead import (
    MAKE,
    TURNED,
    Loaded,
    Packaged,
    a_tenth_off,
    as_if_started,
    crashing,
    single,
    with_kinds_of_attention,
    with_weights_in_another_order,
    without_memory,
    without_numbers,
)
from ryla_nodes.engines.speed import artifact, child, flags, making, refusals, trial
from ryla_nodes.engines.speed.artifact import Call
from ryla_nodes.engines.speed.making import Order
from ryla_nodes.engines.speed.trial import Trial
from torch.nn.attention import SDPBackend, sdpa_kernel


@pytest.fixture(scope="module")
def packaged(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packaged]:
    """One package, for single blocks in ``exact``."""
    yield packages_ahead.make(loaded, tmp_path_factory.mktemp("volume"), lambda given: given[1:2])
    packages_ahead.forget_folders()


@pytest.fixture
def tried(packaged: Packaged) -> Trial:
    """A trial of the package for single blocks in ``exact``."""
    order = making.pickle.loads(packaged.orders[0])
    path = artifact.path_of(order.call.kept.folder, order.facts)
    about = artifact.read(path)
    assert about is not None
    return Trial(order, path, {int(number): parts for number, parts in about["sums"].items()})


def put(order: Order, function: Any) -> Order:
    return replace(order, call=replace(order.call, function=function))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (crashing, "the package was tried: it was ended by signal 11 (SIGSEGV)"),
        (a_tenth_off, "what it gives is wrong by 0.091 at 4 + 4 tokens"),
        (without_numbers, "what it gives is wrong by nan at 4 + 4 tokens"),
        (with_weights_in_another_order, "what it gives is wrong by"),
    ],
)
def test_a_package_that_crashes_or_gives_something_else_is_refused(tried: Trial, function: Any, said: str) -> None:
    with pytest.raises(trial.Refused) as raised:
        trial.attempt(replace(tried, order=put(tried.order, function)))
    assert said in str(raised.value)


def test_a_good_package_passes_and_memory_is_no_reason(tried: Trial) -> None:
    trial.attempt(replace(tried, order=put(tried.order, with_kinds_of_attention)))
    with pytest.raises(child.NotNow, match="out of memory"):
        trial.attempt(replace(tried, order=put(tried.order, without_memory)))


@pytest.fixture
def folder(packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one for packages."""
    as_if_started(monkeypatch, tmp_path)
    made = tmp_path / "cache" / "inductor-both"
    made.mkdir(parents=True)
    yield made
    packages_ahead.forget_folders()


def test_what_cannot_be_made_is_noted_and_the_others_are_tried(
    tried: Trial, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    call = replace(tried.order.call, kept=replace(tried.order.call.kept, folder=folder))
    foreign = replace(tried.order, facts={**tried.order.facts, "code": "another"}, call=call)
    lacking = put(replace(tried.order, call=call), without_memory)
    lost = put(replace(tried.order, call=call), crashing)
    MAKE([making.pickle.dumps(order) for order in (foreign, lacking, lost)])
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2 and "other code" in lines[0] and lines[1].endswith("OutOfMemoryError: out of memory")
    path = artifact.path_of(folder, foreign.facts)
    assert refusals.is_refused(path) and len(list(folder.glob("*.refused"))) == 1
    assert artifact.load_ahead(folder.parents[1], "exact", torch.device("cpu")) is False and len(caplog.records) == 2


def test_a_note_is_respected_until_something_else_is_there(
    packaged: Packaged,
    loaded: Loaded,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    monkeypatch.setattr(making, "_IDLE_S", 0.0)
    monkeypatch.setattr(making, "_make", lambda orders: made.append(len(orders)))
    call = single(replace(packaged, volume=folder.parents[1]), loaded)

    def want() -> None:
        monkeypatch.setattr(making, "_seen", set())
        monkeypatch.setattr(making, "_layouts", type(making._layouts)())
        with torch.inference_mode():
            making.want(call)
        making.wait()

    with torch.inference_mode():
        facts = artifact.facts_of(call)
    assert facts is not None
    refusals.note(artifact.path_of(folder, facts), facts, "it crashed")
    want()
    assert made == []
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    want()
    assert made == [1]


@pytest.mark.parametrize(
    ("code", "passing"), [(0, False), (1, False), (75, True), (-11, False), (-9, True), (-15, True), (-2, True)]
)
def test_who_is_stopped_may_try_again(code: int, passing: bool) -> None:
    ended = child.Ended(code, ["first", "last"])
    assert ended.is_passing is passing
    assert ended.reason == {0: "", 1: "last", 75: "last"}.get(code, ended.reason)
    assert ended.reason.startswith("it was ended by signal") is (code < 0)


def test_facts_are_the_same_within_a_context_of_ComfyUI_before_and_after(
    packaged: Packaged, loaded: Loaded, folder: Path
) -> None:
    call: Call = replace(single(packaged, loaded), function=with_kinds_of_attention)
    with torch.inference_mode():
        before = artifact.facts_of(call)
        call.function(call.block, *call.tensors)
        assert artifact.facts_of(call) == before
        with sdpa_kernel(
            [SDPBackend.MATH, *(getattr(SDPBackend, name) for name in flags.facts()["kinds of attention"])],
            set_priority=True,
        ):
            assert artifact.facts_of(call) == before, "PyTorch changes the order by itself"
        with sdpa_kernel(TURNED):
            assert artifact.facts_of(call) != before


def test_flags_are_set_as_another_process_had_them_and_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    here = flags.read()
    # A training that ran in this process before has set it to high.
    precision = str(here["float32 matmul precision"])
    other = "highest" if precision == "high" else "high"
    wanted = {
        "float32 matmul precision": other,
        "float16 sums": not here["float16 sums"],
        "bfloat16 sums": not here["bfloat16 sums"],
        "float16 accumulation": not here["float16 accumulation"],
        "deterministic": True,
        "deterministic, or warns": True,
        "kinds of attention": ["MATH", "FLASH_ATTENTION"],
    }
    assert wanted.keys() == here.keys()
    with flags.as_in(wanted):
        assert flags.read() == wanted
    assert flags.read() == here
    monkeypatch.setattr(flags, "_set", lambda wanted: None)
    with pytest.raises(RuntimeError, match=f"float32 matmul precision cannot be set to {other}: it is {precision}"):
        flags.as_in(wanted).__enter__()
