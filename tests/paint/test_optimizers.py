"""Muon is torch's own; a stage that was interrupted goes on as if it had not been, both optimisers' moments kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training import loop
from training.loop import Trainer
from training.muon import DECAY, MOMENTUM, Muon, orthogonal

STEPS = 6


class Interrupted(Exception):
    """Somebody stopped the training."""


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 16), nn.Linear(16, 4))


def train(folder: Path, stop_at: int | None = None) -> list[Tensor]:
    module = net()

    def draw(step: int) -> dict[str, Tensor]:
        if step == stop_at:
            raise Interrupted
        return {"x": torch.randn(5, 8, generator=torch.Generator().manual_seed(step))}

    def loss(batch: dict[str, Tensor]) -> Tensor:
        return module(batch["x"]).square().mean()

    matrices = [module[1].weight]
    Trainer("net", module, STEPS, 1e-2, folder, matrices, 2e-2).run(draw, loss, lambda _: None)
    return list(module.parameters())


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
def test_muon_moves_a_matrix_as_the_one_of_torch_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, target = torch.randn(shape), torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    rate = torch.tensor(0.05)
    muon = Muon([ours], rate)
    reference = torch.optim.Muon(
        [theirs], lr=0.05, momentum=MOMENTUM, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(8):
        for matrix, optimizer in ((ours, muon), (theirs, reference)):
            optimizer.zero_grad()
            (matrix - target).square().sum().backward()
            optimizer.step()
    # torch's works in bfloat16 on a CPU, too.
    moved = (theirs - start).detach()
    assert torch.allclose(ours - start, moved, atol=0.02 * float(moved.abs().max()))


def test_matrices_become_about_orthogonal() -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 48, 20, generator=torch.Generator().manual_seed(2))))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_a_rate_is_read_anew_at_every_step() -> None:
    matrix, rate = nn.Parameter(torch.eye(4)), torch.tensor(0.0)
    muon = Muon([matrix], rate)
    matrix.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    muon.step()
    assert torch.equal(matrix, torch.eye(4))
    rate.fill_(0.1)
    muon.step()
    assert not torch.equal(matrix, torch.eye(4))


def test_an_interrupted_stage_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", stop_at=5)
    parts = train(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(whole, net().parameters(), strict=True))


def test_a_bound_of_time_ends_a_stage_with_its_rate_fallen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes a second a look, ten of which are allowed: with 1,000 steps nothing else would end it."""
    clock = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    rates: list[float] = []
    learning_rate = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda step, steps: rates.append(learning_rate(step, steps)) or rates[-1]
    )
    module = net()

    def loss(batch: dict[str, Tensor]) -> Tensor:
        return module(batch["x"]).square().mean()

    Trainer("net", module, 1000, 1e-2, tmp_path, seconds=10).run(lambda _: {"x": torch.ones(5, 8)}, loss, print)
    assert 5 <= len(rates) <= 10 and max(rates) > 0.9 and rates[-1] < 0.1
