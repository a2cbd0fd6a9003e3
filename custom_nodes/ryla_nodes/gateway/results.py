"""The pictures of jobs on disk, what else is told of a result, and how long it is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from ..client import Candidate, Picture, Result, Submission
from ..errors import RylaError
from ..workflows.workflow import BoundPrompt
from .job import LiveJob, Outcome, StoredPicture
from .job_files import JobFiles, JobMoved
from .problems import described, redact

TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}

_SUBMISSION = "submission.json"
_ACCEPTED = "accepted"
_CANCELLED = "cancelled"
_QUALITY = 92


class Results:
    """Of each job: where it was submitted, that it is to be cancelled, its pictures.

    Attributes:
        owner: the gateway that keeps them, where several share the files.
    """

    def __init__(self, files: JobFiles) -> None:
        self._files = files
        self.owner = ""

    # --- while it goes on ------------------------------------------------------------------------------------------

    async def submitting(self, job_id: str, submission: Submission) -> None:
        """Note where a job is about to be posted, on disk before this returns.

        Raises:
            RylaError: ``disk_full``, ``job_store_unreachable``: then it must not be posted.
            JobMoved: nor then: another gateway has the job.
        """
        await asyncio.to_thread(self._files.write, job_id, _SUBMISSION, _told(submission), owner=self.owner)

    def submission(self, job_id: str) -> Submission | None:
        """Where a job may have been posted; None when it provably was not."""
        content = self._files.read(job_id, _SUBMISSION)
        if content is None:
            return None
        told = json.loads(content)
        return Submission(told["server"], told["prompt_id"])

    async def accepted(self, job_id: str, submission: Submission) -> None:
        """Note that an engine has what was submitted so. What cannot be noted counts as not had."""
        with contextlib.suppress(RylaError, JobMoved):
            await asyncio.to_thread(self._files.write, job_id, _ACCEPTED, _told(submission), owner=self.owner)

    def was_accepted(self, job_id: str) -> bool:
        """Whether it was noted that an engine had what was submitted last."""
        return self._files.read(job_id, _ACCEPTED) == self._files.read(job_id, _SUBMISSION)

    def cancelling(self, job_id: str) -> None:
        """Note that a job is to be cancelled, for the process that takes it up after this one."""
        with contextlib.suppress(RylaError):
            self._files.write(job_id, _CANCELLED, b"")

    def cancelled(self, job_ids: frozenset[str]) -> list[str]:
        """For which of these jobs ``cancelling`` was noted."""
        return self._files.among(job_ids, _CANCELLED)

    # --- pictures --------------------------------------------------------------------------------------------------

    async def keep(self, job_id: str, pictures: tuple[Picture, ...]) -> tuple[StoredPicture, ...]:
        """Store a result's pictures.

        Raises:
            RylaError: ``disk_full``, ``job_store_unreachable``.
        """
        return await asyncio.to_thread(self._keep, job_id, pictures)

    def _keep(self, job_id: str, pictures: tuple[Picture, ...]) -> tuple[StoredPicture, ...]:
        stored = []
        for number, picture in enumerate(pictures):
            name = f"{number}.{picture.format.value}"
            self._files.write(job_id, name, picture.data)
            stored.append(StoredPicture(name, TYPES[picture.format.value], len(picture.data)))
        return tuple(stored)

    async def read(self, job_id: str, picture: StoredPicture) -> bytes:
        """A stored picture.

        Raises:
            RylaError: ``result_gone``.
        """
        content = await asyncio.to_thread(self._files.read, job_id, picture.file)
        if content is None:
            raise RylaError("result_gone", "The picture of this job is no longer kept.")
        return content


def converted(data: bytes, kind: str) -> bytes:
    """A picture as ``image/jpeg``, ``image/png`` or ``image/webp``, for engines whose node cannot write it."""
    from PIL import Image

    out = BytesIO()
    with Image.open(BytesIO(data)) as image:
        picture = image.convert("RGB") if kind == "image/jpeg" else image
        picture.save(out, kind.partition("/")[2].upper(), quality=_QUALITY)
    return out.getvalue()


@dataclass(frozen=True)
class Facts:
    """What is known of a result beside what the engine says.

    Attributes:
        price: USD a second of the GPU; None when it is not known.
    """

    pictures: tuple[StoredPicture, ...]
    gpu: str
    price: float | None


def outcome_of(result: Result, prompt: BoundPrompt, job: LiveJob, facts: Facts) -> Outcome:
    """What is kept of a job that an engine had."""
    execution, ended, now = result.timings.execution, job.ended or time.time(), time.time()
    started = job.started if job.started is not None or execution is None else ended - execution
    return Outcome(
        state=result.state.value,
        finished=now,
        error=None if result.error is None else described(result.error),
        pictures=facts.pictures,
        seed=result.seed,
        prompt_id=result.prompt_id,
        queued=None if started is None else max(0.0, started - job.spec.accepted),
        execution=execution,
        fetch=now - ended if result.ok else None,
        gpu=facts.gpu,
        cost_usd=execution * facts.price if execution is not None and facts.price is not None else None,
        lora=_lora_used(result, prompt),
        face_similarity=result.face_similarity,
        cached=result.cached,
        warnings=tuple(map(redact, result.warnings)),
        best_of=tuple(map(_candidate, result.candidates)),
    )


def _candidate(candidate: Candidate) -> dict[str, Any]:
    told = candidate.as_dict()
    return told if candidate.error is None else {**told, "error": described(candidate.error)}


def _lora_used(result: Result, prompt: BoundPrompt) -> str:
    """The id of the LoRA that was applied, from the node's own report; "" when it applied none."""
    for node_id, node in prompt.graph.items():
        if node["class_type"] == "RYLA_LoraLoader" and str(node["inputs"].get("lora_id", "")).strip():
            for text in result.outputs.get(node_id, {}).get("text", ()):
                name, found, _ = str(text).partition(": ")
                return name if found else ""
    return ""


def _told(submission: Submission) -> bytes:
    return json.dumps({"server": submission.server, "prompt_id": submission.prompt_id}).encode()
