"""Train the small models: ``python -m training OUT``. Resumes where it stopped; see docs/training.md."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from . import bank, export, rehearsal, sample, stages
from .batches import Data
from .captions import mira_caption
from .loop import autocast, reporter, timed
from .networks import autoencoder
from .plan import CANVAS, SMOKE, Bucket, Plan
from .render import render
from .scenes import FACE_BACKGROUNDS, MIRA, Scene
from .text import clip_tokenizer, t5_tokenizer

SHEET = 32


class Run:
    """One training in ``folder``: every finished stage leaves a file, and is not done again.

    ``start`` is a folder of exported models to go on from: their autoencoder stays as it is.
    """

    def __init__(self, plan: Plan, folder: Path, device: torch.device, start: Path | None = None) -> None:
        self.plan, self.folder, self.device = plan, folder, device
        self.report = reporter(time.monotonic())
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(plan.seed)
        self.tokenizers = (
            self._tokenizer("t5xxl", t5_tokenizer, start),
            self._tokenizer("clip_l", clip_tokenizer, start),
        )
        self.vae = autoencoder(plan.vae_widths).to(device)
        self.vocabularies = self.tokenizers[0].get_vocab_size(), self.tokenizers[1].get_vocab_size()
        self.painter = stages.Painter(plan, self.vocabularies).to(device)
        if start:
            export.load_models(self.painter, self.vae, start)
            torch.save(self.vae.state_dict(), folder / "vae.pt")

    def _tokenizer(self, name: str, make: Callable[[int], Tokenizer], start: Path | None) -> Tokenizer:
        """The one that an earlier run, or the models to go on from, used: else the text encoders read gibberish."""
        kept = self.folder / f"{name}.tokenizer.json"
        if start and not kept.is_file():
            kept.write_bytes((start / "text_encoders" / f"{export.NAME}-{kept.name}").read_bytes())
        if not kept.is_file():
            make(self.plan.seed).save(str(kept))
        return Tokenizer.from_file(str(kept))

    def stage(self, name: str, module: torch.nn.Module, work: Callable[[], object]) -> None:
        """Do ``work`` and keep ``module``'s weights, or load them where an earlier run did it."""
        done = self.folder / f"{name}.pt"
        if done.is_file():
            module.load_state_dict(torch.load(done, weights_only=True, map_location=self.device))
            return
        with timed(name, self.report):
            work()
        torch.save(module.state_dict(), done)

    def data(self, drawn: list[Scene], pictures: torch.Tensor, captions: bank.Captions) -> Data:
        cast = autocast(self.device)
        latents = {
            bucket.size: bank.latents(self.vae, pictures[: bucket.scenes], bucket.size, cast)
            for bucket in self.plan.buckets
        }
        return Data(latents, captions, bank.empty_captions(*self.tokenizers, self.device))

    def run(self) -> None:
        plan, folder = self.plan, self.folder
        compiling = None if (folder / "distil.pt").is_file() else rehearsal.start(plan, self.vocabularies, self.device)
        data = self.scenes()
        if compiling:
            with timed("waiting for the compiler", self.report):
                compiling.join()
        self.stage("painter", self.painter, lambda: stages.train_painter(self.painter, data, plan, folder, self.report))
        self.judge("painter", self.plan.buckets[:1])
        self.stage(
            "distil", self.painter, lambda: stages.distil_guidance(self.painter, data, plan, folder, self.report)
        )
        self.judge("distil", self.plan.buckets)
        export.export_models(self.painter, self.vae, *self.tokenizers, folder / "models")
        self.lora()

    def scenes(self) -> Data:
        """Draw the training scenes, train the autoencoder on them, and keep their latents: the pictures are let go."""
        plan, folder, device = self.plan, self.folder, self.device
        drawn = bank.scenes(plan)
        with timed("draw", self.report):
            pictures = render(drawn, CANVAS, device)
        self.stage("vae", self.vae, lambda: stages.train_autoencoder(self.vae, pictures, plan, folder, self.report))
        self.judge_autoencoder()
        with timed("latents and captions", self.report):
            return self.data(drawn, pictures, bank.captions(drawn, plan, *self.tokenizers, device))

    def lora(self) -> None:
        plan = self.plan
        drawn = bank.mira_scenes(plan)
        self.judge_mira("without the LoRA", plan.buckets[:1])
        captions = bank.mira_captions(drawn, plan, *self.tokenizers, self.device)
        data = self.data(drawn, render(drawn, CANVAS, self.device), captions)
        self.painter = copy.deepcopy(self.painter)  # Copies are not compiled.
        with timed("lora", self.report):
            adapters = stages.train_lora(self.painter, data, plan, self.folder, self.report)
        export.export_lora(adapters, plan.flux.hidden, self.folder / "models")
        self.judge_mira("lora", plan.buckets)

    def paint(self, prompts: list[str], size: int) -> sample.Pictures:
        plain = copy.deepcopy(self.painter)  # Copies are not compiled: a size is painted too seldom for that.
        return sample.paint(plain, self.vae, self.tokenizers, prompts, size, steps=self.plan.sample_steps)

    def judge_autoencoder(self) -> None:
        """Score held-out drawings that went through the autoencoder: no painting can be better."""
        for bucket in self.plan.buckets:
            for faces in (False, True):
                pairs = sample.held_out(self.plan.judged, 2, faces)
                drawn = render([scene for scene, _ in pairs], CANVAS, self.device)
                pictures = sample.round_trip(self.vae, drawn, bucket.size, autocast(self.device))
                self.score("vae", faces, pairs, pictures)

    def judge_mira(self, name: str, buckets: Sequence[Bucket]) -> None:
        """The share of pictures that show all of the character, at each size, and a sheet of them."""
        rng = random.Random(3)
        pairs = [(MIRA, mira_caption(rng, rng.choice(FACE_BACKGROUNDS))) for _ in range(self.plan.judged)]
        for bucket in buckets:
            pictures = self.paint([text for _, text in pairs], bucket.size)
            self.score(name.replace(" ", "-"), True, pairs, pictures)

    def judge(self, name: str, buckets: Sequence[Bucket]) -> None:
        """Score paintings of held-out scenes at each size."""
        for faces in (False, True):
            pairs = sample.held_out(self.plan.judged, 1, faces)
            for bucket in buckets:
                self.score(name, faces, pairs, self.paint([text for _, text in pairs], bucket.size))

    def score(self, name: str, faces: bool, pairs: list[tuple[Scene, str]], pictures: sample.Pictures) -> None:
        """Report the shares of right attributes and leave a sheet of the first pictures."""
        what, size = "faces" if faces else "shapes", pictures.shape[1]
        shares = {key: round(value, 3) for key, value in sample.score(pairs, pictures).items()}
        self.report(f"{name} {what} at {size}: {shares}")
        sample.sheet(pictures[:SHEET], 8, self.folder / f"{name}-{what}-{size}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for checkpoints, curves, sheets and the models")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, on any machine")
    parser.add_argument("--plan", type=json.loads, default={}, help='other numbers, as {"flux_steps": 500}')
    parser.add_argument("--from", dest="start", type=Path, help="go on from the models in this folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    rehearsal.use_tensor_cores()
    changes = arguments.plan
    if "buckets" in changes:
        changes["buckets"] = tuple(Bucket(*bucket) for bucket in changes["buckets"])
    plan = dataclasses.replace(SMOKE if arguments.smoke else Plan(), **changes)
    Run(plan, arguments.out, torch.device(arguments.device), arguments.start).run()


if __name__ == "__main__":
    main()
