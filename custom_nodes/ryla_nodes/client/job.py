"""A job that goes on in the background, whoever runs it: one of the client's engines, or a gateway."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..errors import RylaError
from ..workflows.workflow import BoundPrompt
from .polling import Guard, OnProgress
from .previews import OnPreview
from .protocol import State
from .results import Result

STATES = {"cancelled": State.CANCELLED, "timed_out": State.TIMED_OUT}
"""How a job ends with an error of its own user's making; with all others it failed."""


@dataclass(frozen=True)
class Submission:
    """Where and as what a prompt is about to be posted: enough to find the job again after a crash.

    At a gateway ``prompt_id`` is the job's Idempotency-Key. ``nonce`` tells this submit from another one under the same
    id; "" when it is not known.
    """

    server: str
    prompt_id: str
    nonce: str = ""


OnSubmit = Callable[[Submission], Awaitable[None] | None]


@dataclass(frozen=True)
class Options:
    """How to run one job.

    Attributes:
        timeout: the hard deadline, in seconds from the moment that the job has an engine.
        on_progress: called with each change, in the client's event loop: be quick.
        on_submit: called right before each POST that may start the job; what it returns is awaited first.
        prompt_id: the id of the first attempt; random when empty.
        depth, wait: see ``Pool.lease``. With a ``wait`` a job also comes back to an engine that recovered.
        reruns: how often a job that its engine lost is run again.
        attach: a submission of an earlier process to take up; nothing is posted.
        on_preview: called with the unfinished pictures that the engine sends; it may send none.
    """

    timeout: float
    on_progress: OnProgress | None = None
    on_submit: OnSubmit | None = None
    prompt_id: str = ""
    depth: int | None = None
    wait: float = 0.0
    reruns: int = 0
    attach: Submission | None = None
    on_preview: OnPreview | None = None


class Job(ABC):
    """A job that goes on in the background.

    Attributes:
        prompt: what was asked.
        server, prompt_id: those of the current attempt; "" before the first.
    """

    def __init__(self, prompt: BoundPrompt, options: Options) -> None:
        self.prompt = prompt
        self.server = options.attach.server if options.attach else ""
        self.prompt_id = options.attach.prompt_id if options.attach else options.prompt_id
        self._options = options
        self._guard = Guard(options.timeout)
        self._began = time.monotonic()
        self._accepted = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    @abstractmethod
    async def _run(self) -> Result:
        """Run it to its end, whatever that is."""

    @property
    def done(self) -> bool:
        return self._task.done()

    def cancel(self) -> None:
        """Stop it, on the engine too; ``result`` tells what came of it."""
        self._guard.cancel()

    def when_done(self, call: Callable[[], None]) -> None:
        """Call ``call`` in the event loop when the job has ended."""
        self._task.add_done_callback(lambda _: call())

    async def accepted(self) -> None:
        """Return once an engine has the job, or it ended before that."""
        waiter = asyncio.ensure_future(self._accepted.wait())
        await asyncio.wait({waiter, self._task}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()

    async def result(self) -> Result:
        """Wait for the end. Cancelling this wait does not cancel the job."""
        return await asyncio.shield(self._task)

    def _tell_seed(self, error: RylaError | None) -> None:
        """A random seed is known to nobody else: without it the job could not be run again."""
        seed = self.prompt.seed
        if error is not None and seed is not None:
            error.details["seed"] = seed
            error.hint = error.hint.replace("the same --seed", f"--seed {seed}")
