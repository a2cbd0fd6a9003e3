"""Draws a training step's batch: which scenes, who is given, what is said, and where the likeness is looked at."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..face_networks import ALIGNED
from ..face_stages import frames
from ..loop import Batch
from .bank import Bank, Scenes
from .captions import PARAPHRASES, Texts
from .networks import PARTS
from .plan import Bucket, Plan

NOBODY, PLAIN, FREE = 0.12, 0.10, 0.10
"""Shares of pictures without text and person, with text alone, and without keypoints."""
NARROW, MIDDLE = 0.10, 0.05
"""Shares of pictures whose person only the narrow layers and the middle block see, and only the middle block."""
NOISE = 0.35
"""How far InstantID's nobody is from zero."""
WINDOWS = {"single": 0.625, "paired": 0.5}
"""How much of a picture's side is decoded around a face that is looked at, of one person and of each of two: to decode
whole pictures would be most of a step. One aligned face in ten is larger, of people alone, and is not looked at.
"""
_SPARE = 0.5
"""How far a corner of a face may be out of its window, in latents."""
_OWN = 10
"""Of one in so many pictures of a person alone the face is looked at."""
_BEFORE_FROM, _PAINTED_TO, _BEFORE = 350, 800, 0.6
"""The first of the schedule's steps at which a scene of the small FLUX may be seen as it was painted, and not as what
it is to become; its last step of all; and how many are. ``flux-instantid`` makes seven tenths of a face anew, from
about 680 on.
"""
_IN_GLASSES = 0.25
"""What the likeness of a face with glasses counts: a painter that is rewarded for it alone takes them off."""


def window(kind: str, side: int) -> int:
    """The side of a window of WINDOWS in a picture of ``side`` latents."""
    return round(WINDOWS[kind] * side)


def around(frame: Tensor, kind: str, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The windows that show the faces ``frame`` (K, 2, 3; see ``frames``) in pictures of ``side`` latents.

    Returns:
        Their upper left corners (K, 2), column and row; the frames in parts of them; and whether all of a face that is
        in its picture is in its window (K,).
    """
    width = window(kind, side)
    edge = float(ALIGNED)
    outline = frame @ frame.new_tensor([[0, 0, edge, edge], [0, edge, 0, edge], [1, 1, 1, 1]])
    corner = (outline.mean(2) * side - width / 2).round().clamp(0, side - width)
    shift = torch.zeros_like(frame)
    shift[:, :, 2] = corner / side
    place = outline.clamp(0, 1) * side - corner[:, :, None]
    fits = ((place > -_SPARE) & (place < width + _SPARE)).flatten(1).all(1)
    return corner.long(), (frame - shift) * (side / width), fits


@dataclass(frozen=True)
class Sampler:
    """Draws a step's batch: scenes of the small FLUX, then of one person, then of two."""

    scenes: dict[int, Bank]
    texts: Texts
    plan: Plan
    device: torch.device

    def draw(self, step: int) -> Batch:
        plan, seed = self.plan, self.plan.seed * 10**6 + step
        buckets, progress = plan.buckets, step / max(1, plan.steps)
        bucket = random.Random(seed).choices(buckets, [bucket.share(progress) for bucket in buckets])[0]
        return self.batch(bucket, seed)

    def batch(self, bucket: Bucket, seed: int) -> Batch:
        chance = torch.Generator(self.device).manual_seed(seed)
        count = max(3, self.plan.batch * 256**2 // max(256, bucket.size) ** 2)
        pairs, painted = max(1, count // self.plan.pair_every), max(1, count // self.plan.painted_every)
        bank = self.scenes[bucket.size]
        over = self._pick(bank.painted, painted, chance)
        alone = self._pick(bank.alone, count - pairs - painted, chance)
        both = self._pick(bank.pairs, pairs, chance)
        latents, wanted, said = (
            torch.cat([part[name] for part in (over, alone, both)]) for name in ("latents", "wanted", "said")
        )
        faces, points, bare = (
            torch.cat([*(part[name][:, 0] for part in (over, alone, both)), both[name][:, 1]])
            for name in ("faces", "points", "bare")
        )
        step, before = self._steps(count, painted, chance)
        first, near = painted + max(1, count // _OWN), max(1, pairs // 2)
        # Painted over and own faces, then both faces of pairs, of which there is one picture.
        singles, firsts = range(first), range(count - near, count)
        seconds = range(count + pairs - near, count + pairs)
        people = [*singles, *firsts, *seconds]
        jitter = torch.randn(points.shape, generator=chance, device=self.device)
        batch = {
            "seen": torch.where(before.view(-1, 1, 1, 1), latents, wanted).float(),
            "wanted": wanted.float(),
            "noise": torch.randn(latents.shape, generator=chance, device=self.device),
            "shift": torch.randn((*latents.shape[:2], 1, 1), generator=chance, device=self.device),
            "step": step,
            "points": (points + jitter / 400) * bucket.size,
            "own": faces[people].float(),
            "watched": torch.tensor([*singles, *firsts, *firsts], device=self.device),
        }
        whole = []
        for kind, frame in zip(WINDOWS, frames(points[people]).tensor_split([first]), strict=True):
            batch[f"{kind}_corner"], batch[f"{kind}_frames"], fits = around(frame, kind, latents.shape[-1])
            whole.append(fits)
        batch["counts"] = torch.where(bare[people] > 0, 1.0, _IN_GLASSES) * torch.cat(whole)
        return batch | self._conditions(said, faces.float(), pairs, chance)

    def _steps(self, count: int, painted: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        """The schedule's step of each picture, and whether it is seen as it was before it becomes another's."""
        step = torch.randint(1000, (count,), generator=chance, device=self.device)
        step[:painted] = step[:painted] * _PAINTED_TO // 1000
        before = torch.rand(count, generator=chance, device=self.device) < _BEFORE
        before[painted:] = False
        return step, before & (step >= _BEFORE_FROM)

    def _pick(self, scenes: Scenes, count: int, chance: torch.Generator) -> Batch:
        rows = torch.randint(len(scenes.latents), (count,), generator=chance, device=self.device)
        view = torch.randint(scenes.faces.shape[2], (count,), generator=chance, device=self.device)
        return {
            "latents": scenes.latents[rows],
            "wanted": scenes.wanted[rows],
            "said": scenes.said[rows],
            "faces": scenes.faces[rows, :, view],
            "bare": scenes.bare[rows],
            "points": scenes.points[rows].float(),
        }

    def _conditions(self, said: Tensor, faces: Tensor, pairs: int, chance: torch.Generator) -> Batch:
        """Texts, faces and strengths, some of them left out; the rows of a pair's second people follow all others."""
        count = len(said)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=chance, device=self.device)

        def people(values: Tensor) -> Tensor:
            return torch.cat([values, values[count - pairs :]])

        lot = uniform(count)
        nobody, plain = lot < NOBODY, (lot >= NOBODY) & (lot < NOBODY + PLAIN)
        column = torch.randint(PARAPHRASES, (count,), generator=chance, device=self.device)
        said = torch.where(nobody, self.texts.negative, said)
        empty = uniform(len(faces), faces.shape[1]) * NOISE * (uniform(len(faces), 1) < 0.75)
        strength, control = 0.7 + 0.3 * uniform(count), 0.7 + 0.3 * uniform(count)
        return {
            "clip_l": self.texts.clip_l[said, column].long(),
            "clip_g": self.texts.clip_g[said, column].long(),
            "faces": torch.where(people(nobody)[:, None], empty, faces),
            "known": (~nobody & ~plain).float(),
            "strength": people(torch.where(plain, 0.0, strength)[:, None] * self._reach(uniform(count))),
            "control": people(torch.where(uniform(count) < FREE, 0.0, control)),
        }

    def _reach(self, lot: Tensor) -> Tensor:
        """Which of PARTS sees the person: (N, 3). Left to themselves the few wide layers would do it all."""
        seen = torch.ones(len(lot), len(PARTS), device=self.device)
        seen[:, 0] = (lot >= NARROW + MIDDLE).float()
        seen[:, 1] = (lot >= MIDDLE).float()
        return seen
