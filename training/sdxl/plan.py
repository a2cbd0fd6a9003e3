"""How much of everything in the training of the small SDXL."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bucket:
    """One picture size: how many scenes are drawn of one person, of two, and of the small FLUX; its share of the first
    and of the last steps.
    """

    size: int
    alone: int
    pairs: int
    painted: int
    first: float
    last: float

    def share(self, progress: float) -> float:
        """How often a step takes this size, ``progress`` in [0, 1] of the way through the training; never below 0."""
        return max(0.0, self.first + (self.last - self.first) * progress)


@dataclass(frozen=True)
class Plan:
    """A step has ``batch`` pictures, fewer if larger than 256 pixels: one in ``pair_every`` with two people, one in
    ``painted_every`` a scene of the small FLUX whose face becomes another's. The smallest size is for the first steps:
    it teaches the words and where things are, at half the time.

    ``rate`` is AdamW's, ``matrix_rate`` Muon's, which moves the attention's and feed-forward layers' matrices. Each
    scene's people are known by the embeddings of ``references`` other views of theirs. ``minutes`` bound the painter's
    steps, drawing and compiling not counted; None leaves it at ``steps``. ``judged`` 0 leaves the judging away.
    """

    seed: int = 1907
    vae_widths: tuple[int, ...] = (64, 64, 128, 128)
    vae_scenes: int = 3000
    vae_steps: int = 3000
    vae_batch: int = 24
    batch: int = 256
    pair_every: int = 4
    painted_every: int = 4
    references: int = 2
    steps: int = 3200
    minutes: float | None = None
    rate: float = 1e-3
    matrix_rate: float = 3.2e-3
    buckets: tuple[Bucket, ...] = (
        Bucket(128, 12_000, 3_000, 3_000, 3.0, -7.0),
        Bucket(256, 24_000, 5_000, 6_000, 0.2, 0.35),
        Bucket(512, 14_000, 6_000, 5_000, 0.0, 0.65),
    )
    judged: int = 96
    sample_steps: int = 20
    compile: bool = True

    @property
    def judged_size(self) -> int:
        """The largest: what people paint in, and what the last steps mostly see."""
        return max(bucket.size for bucket in self.buckets)


SMOKE = Plan(
    vae_scenes=8,
    vae_steps=2,
    vae_batch=4,
    batch=8,
    pair_every=4,
    painted_every=4,
    references=1,
    steps=3,
    buckets=(Bucket(128, 16, 4, 4, 1.0, -1.0), Bucket(256, 8, 4, 4, 0.0, 1.0)),
    judged=2,
    sample_steps=2,
    compile=False,
)
"""Runs every line of the training on a CPU in a minute; its models know nothing."""
