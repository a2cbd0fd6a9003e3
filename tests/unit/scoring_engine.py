"""A fake engine whose pictures have a face score that their seed decides, and a workflow that declares it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import MANIFEST, add_workflow
from unit.fake_engine_worker import Job, _Talk

_SCORED = """
[[outputs]]
node = "Similarity"
kind = "similarity"
"""


def score(seed: int) -> float:
    """The face score of the picture with this seed, 0 .. 0.999."""
    return seed % 1000 / 1000


def add_likeness(root: Path) -> Path:
    """Make the workflow ``likeness`` in ``root`` (for RYLA_WORKFLOWS) and return ``root``."""
    node = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Similarity"}}
    return add_workflow(root, "likeness", MANIFEST + _SCORED, {"3": node})


class ScoringEngine(FakeEngine):
    """Scores pictures by ``score``.

    Attributes:
        failing: the seeds whose jobs fail.
        quick: so many jobs are run at once; each after them takes half a minute.
        seeds: those that were run to their end, in order.
    """

    def __init__(self, *faults: str, **options: Any) -> None:
        super().__init__(*faults, **options)
        self.failing: set[int] = set()
        self.quick = 1000
        self.seeds: list[int] = []

    async def _run_nodes(self, job: Job, talk: _Talk) -> tuple[str, dict[str, Any]] | None:
        seed = job.graph["1"]["inputs"]["seed"]
        job.graph["1"]["inputs"]["seconds"] = self.seconds if len(self.seeds) < self.quick else 30.0
        failed = await super()._run_nodes(job, talk)
        if failed is None and seed in self.failing:
            node = {"prompt_id": job.prompt_id, "node_id": "1", "node_type": "FakePaint", "executed": []}
            return "execution_error", node | {"exception_type": "ValueError", "exception_message": "the brush broke"}
        return failed

    def _outputs(self, job: Job, cached: bool) -> dict[str, Any]:
        seed = job.graph["1"]["inputs"]["seed"]
        self.seeds.append(seed)
        scored = {"face_similarity": [score(seed)], "face_passed": [score(seed) >= 0.4]}
        unscored = "no score" in self.faults
        return {**super()._outputs(job, cached), "3": {} if unscored else scored}
