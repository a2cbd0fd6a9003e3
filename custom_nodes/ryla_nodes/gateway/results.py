"""The pictures of jobs on disk, what else is told of a result, and how long it is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ..client import Candidate, Picture, Result, Submission
from ..errors import RylaError
from ..files import write_whole
from ..workflows.workflow import BoundPrompt
from .job import LiveJob, Outcome, StoredPicture
from .problems import described, redact

TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}

_SUBMISSION = "submission.json"
_CANCELLED = "cancelled"
_QUALITY = 92


class Results:
    """A folder a job: where it was submitted, that it is to be cancelled, its pictures."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def folder(self, job_id: str) -> Path:
        """The folder of one job; of several thousand none lies beside all others."""
        return self._folder / job_id[:2] / job_id

    # --- while it goes on ------------------------------------------------------------------------------------------

    async def submitting(self, job_id: str, submission: Submission) -> None:
        """Note where a job is about to be posted, on disk before this returns.

        Raises:
            RylaError: ``disk_full``: then it must not be posted.
        """
        told = json.dumps({"server": submission.server, "prompt_id": submission.prompt_id})
        await asyncio.to_thread(self._write, job_id, _SUBMISSION, told.encode())

    def _write(self, job_id: str, name: str, content: bytes) -> None:
        try:
            self.folder(job_id).mkdir(parents=True, exist_ok=True)
            write_whole(self.folder(job_id) / name, content)
        except OSError as error:
            raise RylaError("disk_full", f"The job's folder cannot be written: {error.strerror}.") from error

    def submission(self, job_id: str) -> Submission | None:
        """Where a job may have been posted; None when it provably was not."""
        path = self.folder(job_id) / _SUBMISSION
        if not path.exists():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        return Submission(told["server"], told["prompt_id"])

    def cancelling(self, job_id: str) -> None:
        """Note that a job is to be cancelled, for the process that takes it up after this one."""
        with contextlib.suppress(OSError):
            self.folder(job_id).mkdir(parents=True, exist_ok=True)
            (self.folder(job_id) / _CANCELLED).touch()

    def is_cancelled(self, job_id: str) -> bool:
        """Whether ``cancelling`` was noted."""
        return (self.folder(job_id) / _CANCELLED).exists()

    # --- pictures --------------------------------------------------------------------------------------------------

    async def keep(self, job_id: str, pictures: tuple[Picture, ...]) -> tuple[StoredPicture, ...]:
        """Store a result's pictures.

        Raises:
            RylaError: ``disk_full``.
        """
        return await asyncio.to_thread(self._keep, job_id, pictures)

    def _keep(self, job_id: str, pictures: tuple[Picture, ...]) -> tuple[StoredPicture, ...]:
        folder, stored = self.folder(job_id), []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(pictures):
                name = f"{number}.{picture.format.value}"
                write_whole(folder / name, picture.data)
                stored.append(StoredPicture(name, TYPES[picture.format.value], len(picture.data)))
        except OSError as error:
            raise RylaError("disk_full", f"The picture could not be stored: {error.strerror}.") from error
        return tuple(stored)

    async def read(self, job_id: str, picture: StoredPicture) -> bytes:
        """A stored picture.

        Raises:
            RylaError: ``result_gone``.
        """
        try:
            return await asyncio.to_thread((self.folder(job_id) / picture.file).read_bytes)
        except OSError:
            raise RylaError("result_gone", "The picture of this job is no longer kept.") from None

    # --- retention -------------------------------------------------------------------------------------------------

    def forget(self, job_id: str) -> None:
        """Delete what is kept of a job."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def shrink(self, most: int, alive: frozenset[str]) -> int:
        """Delete the pictures that are the oldest until all take ``most`` bytes; how many jobs lost theirs."""
        jobs = [job for job in self._jobs() if job.path.name not in alive]
        total, removed = sum(job.size for job in jobs), 0
        for job in sorted(jobs, key=lambda job: job.modified):
            if total <= most:
                break
            shutil.rmtree(job.path, ignore_errors=True)
            total, removed = total - job.size, removed + 1
        return removed

    def _jobs(self) -> list[_Kept]:
        folders = [path for group in self._folder.iterdir() if group.is_dir() for path in group.iterdir()]
        return [_kept(path) for path in folders]


@dataclass(frozen=True)
class _Kept:
    path: Path
    size: int
    modified: float


def _kept(path: Path) -> _Kept:
    sizes = []
    for file in path.iterdir():
        with contextlib.suppress(OSError):
            sizes.append(file.stat().st_size)
    try:
        modified = path.stat().st_mtime
    except OSError:
        modified = 0.0
    return _Kept(path, sum(sizes), modified)


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
