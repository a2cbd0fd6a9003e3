"""Jobs of the embedded engine: those that wait, the one that runs, the history, and the thread that runs them."""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...protocol import Engine, running_in
from .graph import Graph

MAXIMUM_HISTORY = 10_000
MAXIMUM_WAITING = 10_000
MAXIMUM_BYTES = 64 << 20
"""How much JSON the waiting jobs, and the history, may be together; as objects it is several times as much."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One graph to run. ``number`` orders the queue, smallest first; ``size`` is that of its JSON, in bytes."""

    number: float
    prompt_id: str
    graph: Graph
    extra_data: dict[str, Any]
    outputs: tuple[str, ...]
    size: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event, compare=False)

    @property
    def client_id(self) -> str | None:
        return self.extra_data.get("client_id")

    def as_list(self) -> list[Any]:
        """The five values by which clients know a job."""
        return [self.number, self.prompt_id, self.graph, self.extra_data, list(self.outputs)]


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its messages in order, what its nodes reported, and about which node."""

    success: bool
    messages: list[tuple[str, dict[str, Any]]]
    outputs: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def entry(self, job: Job) -> dict[str, Any]:
        """The job's entry in the history."""
        status = {
            "status_str": "success" if self.success else "error",
            "completed": self.success,
            "messages": [list(message) for message in self.messages],
        }
        return {"prompt": job.as_list(), "outputs": self.outputs, "status": status, "meta": self.meta}


class JobQueue:
    """All jobs, under one lock: a job is waiting, running, or in the history, and never in none of them."""

    def __init__(self, on_change: Callable[[], None], maximum_history: int = MAXIMUM_HISTORY) -> None:
        self._on_change = on_change
        self._maximum_history = maximum_history
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Job]] = []
        self._running: Job | None = None
        self._history: dict[str, dict[str, Any]] = {}
        self._history_sizes: dict[str, int] = {}
        self._history_bytes = 0
        self._order = itertools.count()
        self._to_free = False
        self._closed = False

    def put(self, job: Job) -> bool:
        """Let ``job`` wait its turn; False when too many wait already."""
        with self._changed:
            waiting_bytes = sum(item[2].size for item in self._waiting)
            if len(self._waiting) >= MAXIMUM_WAITING or waiting_bytes + job.size > MAXIMUM_BYTES:
                return False
            heapq.heappush(self._waiting, (job.number, next(self._order), job))
            self._changed.notify()
        self._on_change()
        return True

    def take(self) -> Job | None:
        """Wait for the next job and make it the running one; None when memory is to be given back, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._to_free or self._closed)
            if self._closed or self._to_free or not self._waiting:
                return None
            self._running = heapq.heappop(self._waiting)[2]
        self._on_change()
        return self._running

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Move the running job into the history; the oldest entries go when that is full."""
        size = job.size + len(json.dumps(outcome.outputs))
        with self._changed:
            self._running = None
            self._drop(job.prompt_id)
            self._history[job.prompt_id] = outcome.entry(job)
            self._history_sizes[job.prompt_id] = size
            self._history_bytes += size
            while len(self._history) > self._maximum_history or (
                self._history_bytes > MAXIMUM_BYTES and len(self._history) > 1
            ):
                self._drop(next(iter(self._history)))
        self._on_change()

    def _is_full(self) -> bool:
        too_large = self._history_bytes > MAXIMUM_BYTES and len(self._history) > 1
        return too_large or len(self._history) > self._maximum_history

    def _drop(self, prompt_id: str) -> None:
        if self._history.pop(prompt_id, None) is not None:
            self._history_bytes -= self._history_sizes.pop(prompt_id)

    def snapshot(self) -> tuple[list[Job], list[Job]]:
        """The running job (if any) and the waiting ones in the order in which they will run."""
        with self._changed:
            return [self._running] if self._running else [], [job for *_, job in sorted(self._waiting)]

    def remaining(self) -> int:
        """How many jobs wait or run."""
        with self._changed:
            return len(self._waiting) + (self._running is not None)

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Cancel the running job, if it is the one named (or none is); whether it was."""
        with self._changed:
            hit = self._running is not None and prompt_id in (None, self._running.prompt_id)
            if hit and self._running is not None:
                self._running.cancelled.set()
            return hit

    def delete(self, prompt_id: str) -> bool:
        """Drop a waiting job; whether there was one."""
        with self._changed:
            kept = [item for item in self._waiting if item[2].prompt_id != prompt_id]
            found = len(kept) < len(self._waiting)
            self._waiting = kept
            heapq.heapify(self._waiting)
        if found:
            self._on_change()
        return found

    def clear(self) -> None:
        """Drop every waiting job."""
        with self._changed:
            self._waiting.clear()
        self._on_change()

    def cancel(self, prompt_id: str) -> bool:
        """Cancel a job wherever it is; whether it was waiting or running."""
        with self._changed:
            return self.delete(prompt_id) or self.interrupt(prompt_id)

    def history(self, maximum: int | None = None, offset: int = -1) -> dict[str, Any]:
        """The newest ``maximum`` entries, oldest first; or those from ``offset`` on."""
        with self._changed:
            ids = list(self._history)
            if maximum is not None:
                start = max(0, len(ids) - maximum) if offset < 0 else offset
                ids = ids[start : start + maximum]
            elif offset > 0:
                ids = ids[offset:]
            return {prompt_id: self._history[prompt_id] for prompt_id in ids}

    def entry(self, prompt_id: str) -> dict[str, Any] | None:
        with self._changed:
            return self._history.get(prompt_id)

    def forget(self, prompt_id: str | None = None) -> None:
        """Drop one entry of the history, or all."""
        with self._changed:
            for each in list(self._history) if prompt_id is None else [prompt_id]:
                self._drop(each)

    def ask_to_free(self) -> None:
        """Have the worker give memory back after the present job and before the next."""
        with self._changed:
            self._to_free = True
            self._changed.notify()

    def take_free_request(self) -> bool:
        """Whether that was asked for since the last call."""
        with self._changed:
            asked, self._to_free = self._to_free, False
            return asked

    def close(self) -> None:
        """End: cancel the running job and let ``take`` return None."""
        with self._changed:
            self._closed = True
            self.interrupt()
            self._changed.notify()

    @property
    def closed(self) -> bool:
        return self._closed


class Send(Protocol):
    """Sends a message to the client ``client_id``; to all when that is None."""

    def __call__(self, event: str, data: Mapping[str, Any], client_id: str | None) -> None: ...


class Runner(Protocol):
    """What runs one job to its end; a job's failure is its outcome, not an exception."""

    def run(self, job: Job) -> Outcome: ...

    def free(self) -> None: ...


class Worker(threading.Thread):
    """The one thread that runs jobs, in ``engine``, until the queue is closed."""

    def __init__(self, queue: JobQueue, runner: Runner, send: Send, engine: Engine) -> None:
        super().__init__(name="ryla-engine-worker", daemon=True)
        self._queue = queue
        self._runner = runner
        self._send = send
        self._engine = engine

    def run(self) -> None:
        with running_in(self._engine):
            while not self._queue.closed:
                job = self._queue.take()
                if job is not None:
                    self._job(job)
                if self._queue.take_free_request():
                    self._runner.free()

    def _job(self, job: Job) -> None:
        started = time.monotonic()
        outcome = self._runner.run(job)
        self._queue.finish(job, outcome)
        if job.client_id is not None:
            self._send("executing", {"node": None, "prompt_id": job.prompt_id}, job.client_id)
        ended = "done" if outcome.success else "failed"
        log.info("Job %s %s in %.2f s.", job.prompt_id, ended, time.monotonic() - started)
