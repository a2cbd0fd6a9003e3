"""What every stage of the training shares: the learning rate, averaged weights, checkpoints and the loss curve."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from ryla_nodes.files import replacing
from torch import Tensor, nn

from .graphs import Steps
from .optimizers import Optimizers

SAVE_EVERY = 1000
LOG_EVERY = 100
AVERAGE = 0.999
_PACE = 8
"""Steps after which a stage that is bounded by time waits for the device: they are launched ahead of it."""

Batch = dict[str, Tensor]


def autocast(device: torch.device) -> Callable[[], torch.autocast]:
    """bfloat16 where the device is fast at it, else none."""
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def reporter(begun: float) -> Callable[[str], None]:
    """What writes a line to stdout, behind the seconds since ``begun``, a time of ``time.monotonic``."""

    def report(line: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - begun:6.1f}s] {line}\n")
        sys.stdout.flush()

    return report


def learning_rate(step: int, steps: int) -> float:
    """The share of the peak: linear warm-up over 4 % of the steps, then a cosine to zero."""
    warm = max(1, steps // 25)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class Trainer:
    """Runs one stage: ``loss(draw(step))``, ``steps`` times; it resumes from its last checkpoint in ``folder``.

    ``draw`` makes a step's batch, all its chance included; ``loss`` is a pure function of the batch and the weights.
    Muon moves ``matrices``, AdamW the rest, up to the rates ``matrix_peak`` and ``peak``. The averaged weights
    (exponential, AVERAGE a step) are what ``run`` leaves in the modules. With ``seconds`` it also ends when they are
    over, and the rate falls by the clock.
    """

    def __init__(
        self,
        name: str,
        modules: nn.Module,
        steps: int,
        peak: float,
        folder: Path,
        matrices: Sequence[nn.Parameter] = (),
        matrix_peak: float = 0.0,
        seconds: float | None = None,
    ) -> None:
        self.name, self.modules, self.steps, self.folder, self.seconds = name, modules, steps, folder, seconds
        self.parameters = [p for p in modules.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizers = Optimizers(self.parameters, peak, matrices, matrix_peak)
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
        for key, moments in state["moments"].items():
            self.optimizers.restore(self.parameters[key], moments)
        torch._foreach_copy_(self.average, state["average"])
        self.start, self.curve = state["step"], state["curve"]

    def _save(self, step: int) -> None:
        moments = {key: self.optimizers.moments(parameter) for key, parameter in enumerate(self.parameters)}
        state = {"modules": self.modules.state_dict(), "moments": moments}
        state |= {"average": self.average, "step": step, "curve": self.curve}
        with replacing(self.checkpoint) as part:
            torch.save(state, part)

    def run(self, draw: Callable[[int], Batch], loss: Callable[[Batch], Tensor], report: Callable[[str], None]) -> None:
        """Train to the last step and leave the averaged weights in the modules."""
        self.resume()
        steps = Steps(lambda batch: self._update(batch, loss), self.parameters[0].device)
        begun = time.monotonic()
        with torch.cuda.stream(steps.stream) if steps.stream else nullcontext():
            for step, done in self._paced(steps.stream):
                if step and step % SAVE_EVERY == 0:
                    self._save(step)
                self.optimizers.set_rate(learning_rate(round(done * self.steps), self.steps))
                value = steps.take(draw(step))
                weight = 1 - min(AVERAGE, (1 + step) / (10 + step))
                torch._foreach_lerp_(self.average, [p.data for p in self.parameters], weight)
                if step % LOG_EVERY == 0 or step == self.steps - 1:
                    self.curve.append((step, float(value)))
                    report(f"{self.name} {step}/{self.steps} loss {float(value):.4f} {time.monotonic() - begun:.0f}s")
        if steps.stream:
            steps.stream.synchronize()
        torch._foreach_copy_([p.data for p in self.parameters], self.average)
        (self.folder / f"{self.name}.loss.json").write_text(json.dumps(self.curve))

    def _paced(self, stream: torch.cuda.Stream | None) -> Iterator[tuple[int, float]]:
        """Each step with how far the stage has come, in [0, 1]."""
        begun = time.monotonic()
        for step in range(self.start, self.steps):
            done = step / self.steps
            if self.seconds is not None:
                if stream and step % _PACE == 0:
                    stream.synchronize()
                done = max(done, (time.monotonic() - begun) / self.seconds)
            if done >= 1:
                return
            yield step, done

    def _update(self, batch: Batch, loss: Callable[[Batch], Tensor]) -> Tensor:
        value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizers.step()
        return value.detach()


@contextmanager
def timed(what: str, report: Callable[[str], None]) -> Iterator[None]:
    """Report how long a block took."""
    begun = time.monotonic()
    yield
    report(f"{what}: {time.monotonic() - begun:.1f}s")
