"""Train the small face models: ``python -m training.faces OUT``; see docs/training.md.

Writes InsightFace's files of antelopev2 and the scorer below OUT/insightface, judged by InsightFace itself. A finished
network left its weights in OUT and is not trained again; an unfinished one goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.multiprocessing
from torch import Tensor, nn

from .face_export import export_detector, export_recogniser, judge
from .face_networks import Detector, Recogniser
from .face_stages import (
    CLOSE_POINTS,
    CLOSE_SCALE,
    Margin,
    close_batch,
    detector_bank,
    detector_batch,
    detector_loss,
    recogniser_bank,
    recogniser_batch,
)
from .loop import Batch, Trainer, reporter


@dataclass(frozen=True)
class Plan:
    """Steps and sizes; ``known`` people are told apart. ``judged`` held-out people are shown to the finished files.

    ``detector_batch`` and ``detector_pictures`` count pictures of 256 pixels: there are more smaller ones, and fewer
    larger ones. At last it sees ``close_pictures`` as InsightFace shows it a photo: drawn in ``close_drawn`` pixels and
    enlarged. Each of the known people is seen ``views`` times.
    """

    seed: int = 77
    detector_steps: int = 7000
    detector_batch: int = 64
    detector_pictures: int = 24_000
    sizes: tuple[int, ...] = (128, 192, 256, 384, 640)
    close_steps: int = 800
    close_batch: int = 8
    close_pictures: int = 4000
    close_drawn: int = 320
    close_size: int = 640
    close_rate: float = 3e-4
    recogniser_steps: int = 4000
    recogniser_batch: int = 256
    known: int = 10_000
    views: int = 20
    rate: float = 2e-3
    judged: int = 200


SMOKE = Plan(
    detector_steps=2,
    detector_batch=1,
    detector_pictures=1,
    sizes=(64,),
    close_steps=2,
    close_batch=2,
    close_pictures=4,
    close_drawn=64,
    close_size=128,
    recogniser_steps=2,
    recogniser_batch=4,
    known=8,
    views=2,
    judged=4,
)


def _scaled(count: int, size: int) -> int:
    """As many pictures of ``size`` pixels as have the pixels of ``count`` of 256, at least 2."""
    return max(2, count * 256**2 // size**2)


class Run:
    """One training in ``folder``; ``begun`` is when it was started, now if not given."""

    def __init__(self, plan: Plan, folder: Path, device: torch.device, begun: float | None = None) -> None:
        self.plan, self.folder, self.device = plan, folder, device
        self.begun = time.monotonic() if begun is None else begun
        self.report = reporter(self.begun)
        folder.mkdir(parents=True, exist_ok=True)

    def export(self) -> None:
        """Train what is not trained yet, and write the files."""
        target = self.folder / "insightface" / "models"
        export_detector(self.detector(), target / "antelopev2" / "scrfd_10g_bnkps.onnx")
        export_recogniser(self.recogniser("recogniser", 1), target / "antelopev2" / "glintr100.onnx")
        export_recogniser(self.recogniser("scorer", 2), target / "buffalo_l" / "w600k_r50.onnx")

    def judge(self) -> None:
        """What InsightFace makes of the files."""
        judge(self.folder / "insightface", self.plan.judged, self.folder, self.report)

    def start_judging(self) -> BaseProcess:
        """``judge`` in a process of its own, which needs no GPU and has the same clock."""
        context = torch.multiprocessing.get_context("spawn")
        process = context.Process(target=_judge, args=(self.plan, self.folder, self.begun), daemon=True)
        process.start()
        return process

    def detector(self) -> Detector:
        plan = self.plan
        torch.manual_seed(plan.seed)
        network = Detector().to(self.device)

        @cache
        def bank(size: int) -> Batch:
            return detector_bank(plan.seed * 10**7 + size, _scaled(plan.detector_pictures, size), size, self.device)

        def draw(step: int) -> Batch:
            size = plan.sizes[step % len(plan.sizes)]
            return detector_batch(bank(size), plan.seed * 10**6 + step, _scaled(plan.detector_batch, size))

        self._train("detector", network, network, plan.detector_steps, draw, partial(detector_loss, network))

        @cache
        def close_bank() -> Batch:
            seed = plan.seed * 10**7 + 1
            return detector_bank(seed, plan.close_pictures, plan.close_drawn, self.device, CLOSE_SCALE)

        def draw_close(step: int) -> Batch:
            seed = plan.seed * 10**6 + plan.detector_steps + step
            return close_batch(close_bank(), seed, plan.close_batch, plan.close_size)

        loss = partial(detector_loss, network, points_count=CLOSE_POINTS)
        # Its normalisation stays as it is by now: so few pictures at once would unsettle it.
        self._train("detector-close", network, network, plan.close_steps, draw_close, loss, plan.close_rate)
        return network

    def recogniser(self, name: str, number: int) -> Recogniser:
        """A recogniser; another ``number`` has other first weights, other people and other views."""
        plan, seed = self.plan, self.plan.seed + 1000 * number
        torch.manual_seed(seed)
        network, margin = Recogniser().to(self.device), Margin(plan.known).to(self.device)

        @cache
        def bank() -> Batch:
            return recogniser_bank(seed * 10**6, plan.known, plan.views, number, self.device)

        def draw(step: int) -> Batch:
            return recogniser_batch(bank(), seed * 10**6 + step, plan.recogniser_batch)

        def loss(batch: Batch) -> Tensor:
            return margin(network(batch["faces"]), batch["person"])

        self._train(name, network, nn.ModuleList([network, margin]), plan.recogniser_steps, draw, loss)
        return network

    def _train(
        self,
        name: str,
        network: nn.Module,
        trained: nn.Module,
        steps: int,
        draw: Callable[[int], Batch],
        loss: Callable[[Batch], Tensor],
        rate: float | None = None,
    ) -> None:
        """Train ``trained``, which holds ``network`` and what is thrown away afterwards."""
        done = self.folder / f"{name}.pt"
        if done.is_file():
            network.load_state_dict(torch.load(done, weights_only=True, map_location=self.device))
        else:
            Trainer(name, trained, steps, rate or self.plan.rate, self.folder).run(draw, loss, self.report)
            torch.save(network.state_dict(), done)
        network.eval()


def _judge(plan: Plan, folder: Path, begun: float) -> None:
    Run(plan, folder, torch.device("cpu"), begun).judge()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.faces", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for checkpoints, curves, sheets and the models")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything; the models know nothing")
    parser.add_argument("--plan", type=json.loads, default={}, help='other numbers, as {"known": 500}')
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    plan = dataclasses.replace(SMOKE if arguments.smoke else Plan(), **arguments.plan)
    run = Run(plan, arguments.out, torch.device(arguments.device))
    run.export()
    run.judge()


if __name__ == "__main__":
    main()
