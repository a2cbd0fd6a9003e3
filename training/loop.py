"""What every stage of the training shares: the learning rate, averaged weights, checkpoints and the loss curve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVE_EVERY = 400
LOG_EVERY = 50
AVERAGE = 0.998


def autocast(device: torch.device) -> Callable[[], torch.autocast]:
    """bfloat16 where the device is fast at it, else none."""
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 4 % of the steps, then a cosine to zero."""
    warm = max(1, steps // 25)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Trainer:
    """Runs one stage: ``loss(step)`` is called ``steps`` times; it resumes from its last checkpoint in ``folder``.

    The averaged weights (exponential, AVERAGE a step) are what ``finish`` leaves in the modules.
    """

    def __init__(self, name: str, modules: nn.Module, steps: int, peak: float, folder: Path) -> None:
        self.name, self.modules, self.steps, self.peak, self.folder = name, modules, steps, peak, folder
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        fused = self.parameters[0].is_cuda
        self.optimizer = torch.optim.AdamW(self.parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
        self.curve: list[tuple[int, float]] = []
        self.start = 0

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.checkpoint.pt"

    def resume(self) -> None:
        """Take up the stage where its checkpoint left it."""
        if not self.checkpoint.is_file():
            return
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch._foreach_copy_(self.average, state["average"])
        self.start, self.curve = state["step"], state["curve"]

    def _save(self, step: int) -> None:
        state = {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"average": self.average, "step": step, "curve": self.curve}
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint)

    def run(self, loss: Callable[[int], Tensor], report: Callable[[str], None]) -> None:
        """Train to the last step and leave the averaged weights in the modules."""
        self.resume()
        begun = time.monotonic()
        for step in range(self.start, self.steps):
            value = self._step(step, loss)
            if step % LOG_EVERY == 0 or step == self.steps - 1:
                self.curve.append((step, float(value)))
                report(f"{self.name} {step}/{self.steps} loss {float(value):.4f} {time.monotonic() - begun:.0f}s")
            if step and step % SAVE_EVERY == 0:
                self._save(step)
        torch._foreach_copy_([p.data for p in self.parameters], self.average)
        (self.folder / f"{self.name}.loss.json").write_text(json.dumps(self.curve))

    def _step(self, step: int, loss: Callable[[int], Tensor]) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.peak)
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(
            self.average, [p.data for p in self.parameters], 1 - min(AVERAGE, (1 + step) / (10 + step))
        )
        return value.detach()


@contextmanager
def timed(what: str, report: Callable[[str], None]) -> Iterator[None]:
    """Report how long a block took."""
    begun = time.monotonic()
    yield
    report(f"{what}: {time.monotonic() - begun:.1f}s")
