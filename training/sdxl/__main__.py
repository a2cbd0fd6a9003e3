"""Train the models that know the drawn people: ``python -m training.sdxl OUT``; see docs/training.md.

The face networks first, in OUT/faces, while SDXL's blocks are compiled; then SDXL with InstantID, while the face files
are judged. A finished stage left its weights in OUT and is not done again; an unfinished one goes on from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from pathlib import Path

import torch
from ryla_nodes.engines.embedded.inference.vae import Autoencoder
from ryla_nodes.models.identity_files import IdentityFiles
from tokenizers import Tokenizer
from torch import Tensor

from .. import faces
from ..bank import scenes as flux_scenes
from ..face_networks import Recogniser
from ..face_stages import as_bytes
from ..loop import timed
from ..plan import Plan as FluxPlan
from ..portraits import portraits
from ..rehearsal import use_tensor_cores
from ..render import render
from ..text import clip_tokenizer
from . import rehearsal, restore
from .bank import Artist, Bank, scene_views, strangers
from .captions import Texts, corpus
from .export import export_models
from .judge import Judge, sheet
from .networks import Painter, autoencoder, frozen
from .plan import SMOKE, Bucket, Plan
from .sampler import Sampler
from .stages import Likeness, train_autoencoder, train_painter

_CANVAS = 512
_FLUX_SHARE = 4
"""One in so many of the autoencoder's pictures is a scene of the small FLUX, whose faces SDXL renders again."""


class Run:
    """One training in ``folder``; its face networks come from ``face_run``. It goes on from ``source``, if given."""

    def __init__(
        self, plan: Plan, folder: Path, face_run: faces.Run, device: torch.device, source: IdentityFiles | None = None
    ) -> None:
        self.plan, self.folder, self.face_run, self.device = plan, folder, face_run, device
        self.report = face_run.report
        folder.mkdir(parents=True, exist_ok=True)
        use_tensor_cores()
        torch.manual_seed(plan.seed)
        if source is not None and not (folder / "tokenizer.json").is_file():
            restore.prepare(source, folder)
        self.tokenizer = self._tokenizer()
        self.vae = autoencoder(plan.vae_widths).to(device)
        self.painter = Painter(self.tokenizer.get_vocab_size()).to(device)
        if source is not None:
            restore.restore(self.painter, self.vae, source)
            torch.save(self.vae.state_dict(), folder / "vae.pt")

    def _tokenizer(self) -> Tokenizer:
        kept = self.folder / "tokenizer.json"
        if not kept.is_file():
            clip_tokenizer(self.plan.seed, corpus(self.plan.seed)).save(str(kept))
        return Tokenizer.from_file(str(kept))

    def run(self) -> None:
        plan, folder = self.plan, self.folder
        done = folder / "sdxl.pt"
        compiling = None if done.is_file() else rehearsal.start(plan, self.tokenizer.get_vocab_size(), self.device)
        self.face_run.export()
        judging = self.face_run.start_judging() if plan.judged else None
        recogniser, scorer = (
            self.face_run.recogniser(name, number).requires_grad_(False).to(self.device)
            for number, name in enumerate(("recogniser", "scorer"), start=1)
        )
        self.autoencoder()
        vae = frozen(self.vae, self.device)
        texts = Texts.of(self.tokenizer, plan.seed, self.device)
        judge = Judge(recogniser, scorer, texts, plan.judged, self.device) if plan.judged else None
        if judge:
            self.judge_autoencoder(judge)
        if done.is_file():
            self.painter.load_state_dict(torch.load(done, weights_only=True, map_location=self.device))
        else:
            with timed("drawing", self.report):
                sampler = Sampler(self.scenes(vae, recogniser), texts, plan, self.device)
            if compiling:
                with timed("waiting for the compiler", self.report):
                    compiling.join()
            with timed("sdxl", self.report):
                train_painter(self.painter, sampler, Likeness(vae, recogniser), plan, folder, self.report)
            torch.save(self.painter.state_dict(), done)
        export_models(self.painter, self.vae, self.tokenizer, folder / "models")
        self.report("all models are written")
        if judge:
            self.judge(judge)
        if judging:
            judging.join()
            if judging.exitcode:
                raise SystemExit("The face files could not be judged; why stands above.")

    def autoencoder(self) -> None:
        done = self.folder / "vae.pt"
        if done.is_file():
            self.vae.load_state_dict(torch.load(done, weights_only=True, map_location=self.device))
            return
        with timed("drawing for the autoencoder", self.report):
            pictures = self._pictures()
        with timed("vae", self.report):
            train_autoencoder(self.vae, pictures, self.plan, self.folder, self.report)
        torch.save(self.vae.state_dict(), done)

    def _pictures(self) -> Tensor:
        """Bytes (vae_scenes, 3, 512, 512)."""
        plan, parts = self.plan, []
        flux = plan.vae_scenes // _FLUX_SHARE
        for first in range(0, plan.vae_scenes - flux, 16):
            count = min(16, plan.vae_scenes - flux - first)
            view, _ = scene_views(count, torch.Generator().manual_seed(plan.seed + first))
            who = strangers(count, torch.Generator(self.device).manual_seed(plan.seed + first))
            parts.append(as_bytes(portraits(who, view.to(self.device), _CANVAS)))
        drawn = flux_scenes(FluxPlan(scenes=flux, face_share=0.7, seed=plan.seed))
        return torch.cat([*parts, render(drawn, _CANVAS, self.device)])

    @torch.no_grad()
    def judge_autoencoder(self, judge: Judge) -> None:
        """Who people are after their pictures went through the autoencoder: no painting can be better."""
        size = self.plan.judged_size
        drawn = portraits(judge.who, judge.view, size)
        back = torch.cat([self.vae.decode(self.vae.encode(part * 2 - 1)[0]) for part in drawn.split(16)])
        back = ((back + 1) / 2).clamp(0, 1)
        share, cosine = judge.accept_at(back, judge.points)
        gap = float((back - drawn).square().mean())
        self.report(f"vae at {size}: mean square error {gap:.6f}, {share:.3f} accepted, cosine {cosine:.3f}")
        sheet([drawn, back], self.folder / f"vae-{size}.png")

    def scenes(self, vae: Autoencoder, recogniser: Recogniser) -> dict[int, Bank]:
        artist = Artist(vae, recogniser, self.plan, self.device)
        return {
            bucket.size: Bank(artist.alone(bucket), artist.pairs(bucket), artist.painted(bucket))
            for bucket in self.plan.buckets
        }

    def judge(self, judge: Judge) -> None:
        """The shares of held-out people who are accepted: with their own photo, with another's, and with none."""
        plan, report = self.plan, self.report
        report(f"scorer: {judge.accepted:.3f} of drawn pairs accepted, threshold {judge.threshold:.3f}")
        other = judge.vectors.roll(1, 0)
        painter = copy.deepcopy(self.painter)  # A copy is not compiled: it paints too seldom for that.
        size, rows = plan.judged_size, [judge.photos]
        for name, vectors, strength in (
            ("own photo", judge.vectors, 0.8),
            ("another's photo", other, 0.8),
            ("strength 0.4", judge.vectors, 0.4),
            ("strength 0", judge.vectors, 0.0),
        ):
            pictures = judge.paint(painter, self.vae, vectors, size, plan.sample_steps, strength)
            share, cosine = judge.accept(pictures)
            report(f"sdxl at {size}, {name}: {share:.3f} accepted, cosine {cosine:.3f}")
            rows.append(pictures)
        sheet(rows, self.folder / f"sdxl-{size}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.sdxl", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for checkpoints, curves, sheets and the models")
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything; the models know nothing")
    parser.add_argument("--minutes", type=float, help="for the painter's steps, drawing and compiling not counted")
    parser.add_argument("--plan", type=json.loads, default={}, help='other numbers, as {"steps": 500}')
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--from", dest="source", type=Path, help="a training's OUT, or the package's models, to go on from"
    )
    arguments = parser.parse_args()
    changes = {"minutes": arguments.minutes, **arguments.plan}
    if "buckets" in changes:
        changes["buckets"] = tuple(Bucket(*bucket) for bucket in changes["buckets"])
    plan = dataclasses.replace(SMOKE if arguments.smoke else Plan(), **changes)
    device = torch.device(arguments.device)
    face_run = faces.Run(faces.SMOKE if arguments.smoke else faces.Plan(), arguments.out / "faces", device)
    source = None if arguments.source is None else restore.given(arguments.source)
    Run(plan, arguments.out, face_run, device, source).run()


if __name__ == "__main__":
    main()
