"""The one thread that runs jobs. Nothing that a job does ends it."""

from __future__ import annotations

import logging
import threading
import time
import traceback

from .context import Enter
from .executor import Executor
from .inputs import full_type_name, text_of
from .jobs import Job, JobQueue, Outcome

log = logging.getLogger(__name__)


class Worker(threading.Thread):
    """Takes jobs until the queue is closed."""

    def __init__(self, queue: JobQueue, executor: Executor, enter_engine: Enter) -> None:
        super().__init__(name="ryla-engine-worker", daemon=True)
        self._queue = queue
        self._executor = executor
        self._enter_engine = enter_engine

    def run(self) -> None:
        with self._enter_engine():
            while not self._queue.closed:
                job = self._queue.take()
                if job is not None:
                    self._job(job)
                if self._queue.take_wish_to_free():
                    self._free()

    def _free(self) -> None:
        try:
            self._executor.free()
        except Exception:  # the thread outlives it
            log.exception("Memory could not be given back.")

    def _job(self, job: Job) -> None:
        started = time.monotonic()
        try:
            outcome = self._executor.run(job)
        except BaseException as error:  # noqa: BLE001 - the thread outlives whatever a job raises, sys.exit() included
            outcome = self._crashed(job, error)
        self._queue.finish(job, outcome)
        if job.client_id is not None:
            self._executor.send("executing", {"node": None, "prompt_id": job.prompt_id}, job.client_id)
        ended = "done" if outcome.success else "failed"
        log.info("Job %s %s in %.2f s.", job.prompt_id, ended, time.monotonic() - started)

    def _crashed(self, job: Job, error: BaseException) -> Outcome:
        """The outcome of a job that failed outside of its nodes; what was kept of it is dropped."""
        log.error("Job %s failed outside of its nodes.", job.prompt_id, exc_info=error)
        self._executor.cache.clear()
        node_id = job.outputs[0]
        data = {
            "prompt_id": job.prompt_id,
            "node_id": node_id,
            "node_type": job.graph[node_id]["class_type"],
            "executed": [],
            "exception_message": f"{text_of(error)}\n",
            "exception_type": full_type_name(type(error)),
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": {},
            "current_outputs": [],
            "timestamp": int(time.time() * 1000),
        }
        if job.client_id is not None:
            self._executor.send("execution_error", data, job.client_id)
        return Outcome(False, [("execution_error", data)])
