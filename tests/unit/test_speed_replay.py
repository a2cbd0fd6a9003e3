"""Recorded calls: what is of one kind, what is kept, and that a result is nobody's to overwrite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from ryla_nodes.engines.speed.replay import Replays, places_of
from torch.utils import _pytree


class Tape:
    """Stands in for a CUDA graph: runs again, and writes to the same outputs."""

    made = 0

    def __init__(self, run: Callable[[], Any]) -> None:
        Tape.made += 1
        self.run, self.outputs = run, run()

    def replay(self) -> None:
        for kept, new in zip(*map(_pytree.tree_leaves, (self.outputs, self.run())), strict=True):
            if isinstance(kept, torch.Tensor):
                kept.copy_(new)


def record(run: Callable[[], Any]) -> tuple[Tape, Any]:
    tape = Tape(run)
    return tape, tape.outputs


@pytest.fixture
def replays() -> Replays:
    Tape.made = 0
    return Replays(most=2, recorder=record)


def double(x: Any, *, more: Any = None, control: Any = None) -> Any:
    if control:
        x = x + control["output"].pop()  # As a UNet does.
    return {"twice": 2 * x, "more": more}


def test_the_third_call_is_replayed_and_the_results_are_ones_own(replays: Replays) -> None:
    inputs = [torch.full((2, 3), float(number)) for number in range(5)]
    results = [replays.call(double, (x,), {}, kind=1)["twice"] for x in inputs]
    assert Tape.made == 1
    assert [float(result[0, 0]) for result in results] == [0, 2, 4, 6, 8]
    results[2].zero_()
    assert float(replays.call(double, (inputs[4],), {}, kind=1)["twice"][0, 0]) == 8


def test_what_is_given_nested_is_written_and_what_a_network_takes_out_comes_back(replays: Replays) -> None:
    for number in range(4):
        control = {"output": [None, torch.full((2,), float(number))], "middle": []}
        made = replays.call(double, (torch.ones(2),), {"control": control}, kind=1)
        assert made["twice"].tolist() == [2.0 * (1 + number)] * 2
    assert Tape.made == 1


@pytest.mark.parametrize(
    "other",
    [
        {"kind": 2},
        {"x": torch.ones(3)},
        {"x": torch.ones(2, dtype=torch.float64)},
        {"more": 3},
        {"control": {"output": [torch.ones(2)]}},
    ],
)
def test_another_kind_is_recorded_by_itself(replays: Replays, other: dict[str, Any]) -> None:
    def call(x: Any = None, kind: int = 1, **named: Any) -> Any:
        x = torch.ones(2) if x is None else x
        given = {name: _pytree.tree_map(lambda each: each, value) for name, value in named.items()}
        return replays.call(double, (x,), given, kind=kind)["twice"]

    for _ in range(3):
        call()
    for _ in range(3):
        made = call(**other)
    expected = double(other.get("x", torch.ones(2)), control=other.get("control"))["twice"]
    assert Tape.made == 2 and torch.equal(made, expected)


def test_few_kinds_are_kept_and_the_least_recently_used_goes(replays: Replays) -> None:
    for kind in (1, 1, 1, 2, 2, 2, 1, 3, 3, 1, 1):
        replays.call(double, (torch.ones(2),), {}, kind=kind)
    assert Tape.made == 3, "the first is still there"
    for _ in range(2):
        replays.call(double, (torch.ones(2),), {}, kind=2)
    assert Tape.made == 4


def test_what_is_no_tensor_and_no_plain_value_runs_as_it_is(replays: Replays) -> None:
    for _ in range(3):
        replays.call(double, (torch.ones(2),), {"more": object()}, kind=1)
    assert Tape.made == 0


def test_what_cannot_be_recorded_is_tried_once_and_said(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def refuse(run: Callable[[], Any]) -> Any:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    replays = Replays(recorder=refuse)
    for number in range(4):
        made = replays.call(double, (torch.full((2,), float(number)),), {}, kind=1)
        assert made["twice"].tolist() == [2.0 * number] * 2
    assert len(tried) == 1 and "not permitted when stream is capturing" in caplog.text and "more" not in caplog.text


def test_weights_that_moved_are_somewhere_else() -> None:
    network = torch.nn.Linear(2, 2)
    before = places_of(network)
    with torch.no_grad():
        network.weight.mul_(2)
    assert places_of(network) == before, "they are where they were"
    network.weight.data = network.weight.data.clone()
    assert places_of(network) != before != places_of(torch.nn.Linear(2, 2))
