"""A job: as it was accepted, while it is alive, and how it ended."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from ..client import Job as EngineJob
from ..client import Phase, Progress, Submission
from ..workflows.workflow import BoundPrompt
from .events import EventLog

_PROMPTS = uuid.UUID("9d1cf4be-5f7c-4c0e-8f6e-2f5e4a0c7c11")
_KEYS = uuid.UUID("5b8f1f6a-4f0b-4a39-9f0e-5d8c4f7a9d23")


def prompt_id_of(job_id: str) -> str:
    """The engine's id of a job's first attempt: the same whenever and by whomever it is taken up."""
    return str(uuid.uuid5(_PROMPTS, job_id))


def job_id_of(owner: str, key: str) -> str:
    """The id of the job that an Idempotency-Key of a token stands for; a new one without a key."""
    return str(uuid.uuid5(_KEYS, f"{owner}\0{key}")) if key else str(uuid.uuid4())


@dataclass(frozen=True)
class JobSpec:
    """A job as it was accepted: all that another process needs to run it.

    Attributes:
        parameters: every effective value, the seed included; of a picture the name of its upload.
        uploads: the names of its uploads.
        owner: the name of the token that asked for it; "" for nobody's.
        accepted, deadline: Unix seconds.
        digest: of what was asked, to tell a repeated request from another one under the same key.
        webhook: where its end is posted; "" for nowhere.
    """

    workflow: str
    parameters: Mapping[str, Any]
    uploads: tuple[str, ...]
    owner: str
    accepted: float
    deadline: float
    digest: str
    webhook: str = ""

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> JobSpec:
        """Read what ``record`` wrote."""
        return cls(**{**record, "uploads": tuple(record["uploads"])})

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class StoredPicture:
    """One picture of a result: its file's name in the job's folder, its MIME type and its bytes."""

    file: str
    type: str
    bytes: int


@dataclass(frozen=True)
class Outcome:
    """How a job ended. Times are in seconds; what is not known is None.

    Attributes:
        state: ``succeeded``, ``failed``, ``cancelled``, ``timed_out`` or ``lost``.
        error: why it did not succeed: code, message, hint and further facts.
        queued: from the acceptance to the start on the engine.
        execution: the engine's own figure.
        fetch: from the end on the engine to the stored picture.
        finished: Unix seconds.
        cached: the engine had the picture already and did not run it again.
        best_of: of each picture from which the best was taken its seed, similarity, error and whether it was chosen.
    """

    state: str
    finished: float
    error: Mapping[str, Any] | None = None
    pictures: tuple[StoredPicture, ...] = ()
    seed: int | None = None
    prompt_id: str = ""
    queued: float | None = None
    execution: float | None = None
    fetch: float | None = None
    gpu: str = ""
    cost_usd: float | None = None
    lora: str = ""
    face_similarity: float | None = None
    cached: bool = False
    warnings: tuple[str, ...] = ()
    best_of: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Outcome:
        """Read what ``record`` wrote."""
        pictures = tuple(StoredPicture(**each) for each in record.get("pictures", ()))
        lists = {name: tuple(record.get(name, ())) for name in ("warnings", "best_of")}
        known = {"finished": 0.0, **record, "pictures": pictures, **lists}
        return cls(**known)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @property
    def ok(self) -> bool:
        return self.state == "succeeded"


@dataclass(eq=False)
class LiveJob:
    """A job that waits or runs in this process, and for a while after it ended.

    Attributes:
        prompt: what the engine is given; bound anew when None.
        keep: it goes on without anybody who waits for it.
        watchers: how many requests wait for it.
        started, ended: Unix seconds at which an engine began and ended its work on it.
        engine_job: what the client has of it, once it had its turn.
        submitted: what was noted as posted, and not yet that an engine has it.
        task: what runs it.
        data: its first picture, while somebody waits for it.
        ending: how it ended, not yet stored.
        stop: it is to be cancelled.
        moved: another gateway has it now.
        outcome: done when it has ended and that is stored; cancelled when this process ends before.
    """

    id: str
    spec: JobSpec
    log: EventLog
    prompt: BoundPrompt | None = None
    keep: bool = True
    watchers: int = 0
    started: float | None = None
    ended: float | None = None
    engine_job: EngineJob | None = None
    submitted: asyncio.Queue[Submission] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[Any] | None = None
    data: bytes | None = None
    progress: Progress | None = None
    ending: Outcome | None = None
    moved: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def state(self) -> str:
        """``queued``, ``running``, or how it ended."""
        if self.outcome.done():
            return self.outcome.result().state
        return "running" if self.started is not None else "queued"

    @property
    def prompt_id(self) -> str:
        """The engine's id of it; "" before it has one."""
        return self.engine_job.prompt_id if self.engine_job else ""

    @property
    def remaining(self) -> float:
        """Seconds until its deadline."""
        return self.spec.deadline - time.time()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Somebody waits for it in this block; its picture stays in memory for so long."""
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1
            if not self.watchers:
                self.data = None

    def show(self, progress: Progress) -> None:
        """Take a report of the client and tell it as an event."""
        before, self.progress = self.progress, progress
        if progress.phase is Phase.RUNNING and self.started is None:
            self.started = time.time()
        if progress.phase is Phase.QUEUED:
            self.log.add("queued", {"position": progress.ahead})
        elif progress.phase is Phase.RUNNING:
            if before is None or before.phase is not Phase.RUNNING:
                self.log.add("running", {})
            if progress.node and (before is None or before.node != progress.node):
                told = {"node": progress.node, "done": progress.nodes_done, "total": progress.nodes_total}
                self.log.add("node", told)
            if progress.steps:
                self.log.add("step", {"node": progress.node, "step": progress.step, "steps": progress.steps})
        elif progress.phase is Phase.FETCHING:
            self.ended = time.time()
            self.log.add("fetching", {})
