"""Train the small models: ``python -m training OUT``. Resumes where it stopped; see docs/training.md."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from . import bank, export, sample, stages
from .loop import autocast, timed
from .plan import CANVAS, SMOKE, Bucket, Plan
from .render import render
from .text import clip_tokenizer, t5_tokenizer
from .vae import Autoencoder

JUDGED, SHEET = 96, 32


class Run:
    """One training in ``folder``: every finished stage leaves a file, and is not done again."""

    def __init__(self, plan: Plan, folder: Path, device: torch.device) -> None:
        self.plan, self.folder, self.device = plan, folder, device
        self.begun = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(plan.seed)
        self.tokenizers = (t5_tokenizer(plan.seed), clip_tokenizer(plan.seed))
        self.vae = Autoencoder(plan.vae_width).to(device)
        vocabularies = self.tokenizers[0].get_vocab_size(), self.tokenizers[1].get_vocab_size()
        self.painter = stages.Painter(plan, vocabularies).to(device)

    def report(self, line: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - self.begun:6.1f}s] {line}\n")
        sys.stdout.flush()

    def stage(self, name: str, module: torch.nn.Module, work: Callable[[], object]) -> None:
        """Do ``work`` and keep ``module``'s weights, or load them where an earlier run did it."""
        done = self.folder / f"{name}.pt"
        if done.is_file():
            module.load_state_dict(torch.load(done, weights_only=True, map_location=self.device))
            return
        with timed(name, self.report):
            work()
        torch.save(module.state_dict(), done)

    def data(self, drawn: list[bank.Scene], pictures: torch.Tensor, captions: bank.Captions) -> stages.Data:
        cast = autocast(self.device)
        latents = {
            bucket.size: bank.latents(self.vae, pictures[: bucket.scenes], bucket.size, cast)
            for bucket in self.plan.buckets
        }
        return stages.Data(latents, captions, bank.empty_captions(*self.tokenizers, self.device))

    def run(self) -> None:
        plan, folder = self.plan, self.folder
        data = self.scenes()
        self.stage("painter", self.painter, lambda: stages.train_painter(self.painter, data, plan, folder, self.report))
        self.judge("painter", self.plan.buckets[:1])
        self.stage(
            "distil", self.painter, lambda: stages.distil_guidance(self.painter, data, plan, folder, self.report)
        )
        self.judge("distil", self.plan.buckets)
        export.export_models(self.painter, self.vae, *self.tokenizers, folder / "models")
        self.lora()

    def scenes(self) -> stages.Data:
        """Draw the training scenes, train the autoencoder on them, and keep their latents: the pictures are let go."""
        plan, folder, device = self.plan, self.folder, self.device
        drawn = bank.scenes(plan)
        with timed("draw", self.report):
            pictures = render(drawn, CANVAS, device)
        self.stage("vae", self.vae, lambda: stages.train_autoencoder(self.vae, pictures, plan, folder, self.report))
        with timed("latents and captions", self.report):
            return self.data(drawn, pictures, bank.captions(drawn, plan, *self.tokenizers, device))

    def lora(self) -> None:
        plan = self.plan
        drawn = bank.mira_scenes(plan)
        captions = bank.mira_captions(drawn, plan, *self.tokenizers, self.device)
        data = self.data(drawn, render(drawn, CANVAS, self.device), captions)
        with timed("lora", self.report):
            adapters = stages.train_lora(self.painter, data, plan, self.folder, self.report)
        export.export_lora(adapters, plan.flux.hidden, self.folder / "models")
        prompts = ["mira, a drawn face, mint background", "mira, a portrait, navy background"] * (SHEET // 2)
        self.sheet("lora", prompts)

    def paint(self, prompts: list[str], size: int) -> sample.NDArray[sample.np.uint8]:
        return sample.paint(self.painter, self.vae, self.tokenizers, prompts, size, autocast(self.device))

    def sheet(self, name: str, prompts: list[str]) -> None:
        sample.sheet(self.paint(prompts, 128), 8, self.folder / f"{name}.png")

    def judge(self, name: str, buckets: Sequence[Bucket]) -> None:
        """Score held-out scenes at each size and leave a sheet of the first of them."""
        for faces in (False, True):
            pairs = sample.held_out(JUDGED if self.plan.compile else 4, 1, faces)
            for bucket in buckets:
                pictures = self.paint([text for _, text in pairs], bucket.size)
                shares = {key: round(value, 3) for key, value in sample.score(pairs, pictures).items()}
                self.report(f"{name} {'faces' if faces else 'shapes'} at {bucket.size}: {shares}")
                sample.sheet(
                    pictures[:SHEET], 8, self.folder / f"{name}-{'faces' if faces else 'shapes'}-{bucket.size}.png"
                )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for checkpoints, curves, sheets and the models")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, on any machine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    Run(SMOKE if arguments.smoke else Plan(), arguments.out, torch.device(arguments.device)).run()


if __name__ == "__main__":
    main()
