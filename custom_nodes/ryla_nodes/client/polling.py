"""Carries out what the job state machine asks for: one call at a time, events in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from . import actions
from .actions import Action, Answer, CancelAnswer, Outcome, Signal
from .api import EngineApi
from .failures import Subject
from .progress import Tracker
from .protocol import Event
from .state_machine import JobMachine

_SUBMIT_FINISHES_IN = 2.0
_ENDING_CALL = 2.0


class Driver:
    """One machine, one engine. ``run`` returns the outcome; ``cancel`` and ``signal`` may be called meanwhile."""

    def __init__(
        self,
        machine: JobMachine,
        engine: EngineApi,
        subject: Subject,
        *,
        deadline: float,
        tracker: Tracker,
        on_submit: Callable[[], None],
        on_accepted: Callable[[], None],
    ) -> None:
        self._machine, self._engine, self._subject = machine, engine, subject
        self._deadline, self._tracker = deadline, tracker
        self._on_submit, self._on_accepted = on_submit, on_accepted
        self._wake = asyncio.Event()
        self._cancelled = asyncio.Event()
        self._accepted_at: float | None = None
        self._running_at: float | None = None

    @property
    def queued(self) -> float:
        """Seconds from the engine's acceptance to the first sign that it worked on the job; 0 without one."""
        if self._accepted_at is None or self._running_at is None:
            return 0.0
        return max(0.0, self._running_at - self._accepted_at)

    def signal(self, signal: Signal) -> None:
        """Take a websocket signal."""
        self._machine.feed(signal, time.monotonic())
        if isinstance(signal, Event) and signal.prompt_id == self._subject.prompt_id:
            self._tracker.event(signal)
        self._wake.set()

    def cancel(self) -> None:
        """Stop the job; the outcome says what came of it."""
        self._machine.cancel(time.monotonic())
        self._cancelled.set()
        self._wake.set()

    async def run(self) -> Outcome:
        """Drive the machine to its end."""
        while True:
            now = time.monotonic()
            action = self._machine.next(now)
            self._note(now)
            if isinstance(action, actions.Finished):
                return action.outcome
            if isinstance(action, actions.Sleep):
                await self._sleep(action.until - now)
                continue
            answer = await self._carry_out(action)
            if isinstance(answer, actions.Accepted):
                self._accept()
            self._machine.feed(answer, time.monotonic())

    def _note(self, now: float) -> None:
        if self._machine.running and self._running_at is None:
            self._running_at = now
        if self._machine.running or self._machine.position is not None:
            self._accept()
        self._tracker.state(self._machine)

    def _accept(self) -> None:
        if self._accepted_at is None:
            self._accepted_at = time.monotonic()
            self._on_accepted()

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), max(0.0, seconds))
        except asyncio.TimeoutError:
            return
        self._wake.clear()

    async def _carry_out(self, action: Action) -> Answer:
        """Make the call, but let go of it at the deadline and on a cancellation: what it did is found out by id."""
        call = asyncio.ensure_future(self._call(action))
        cancelled = asyncio.ensure_future(self._cancelled.wait())
        cancelling = cancelled if not self._cancelled.is_set() else call
        try:
            await asyncio.wait({call, cancelling}, timeout=self._limit(), return_when=asyncio.FIRST_COMPLETED)
            if not call.done() and isinstance(action, actions.Submit):
                await asyncio.wait({call}, timeout=_SUBMIT_FINISHES_IN)
            return call.result() if call.done() else _abandoned(action)
        finally:
            cancelled.cancel()
            call.cancel()

    def _limit(self) -> float:
        """How long a call may take; the transport has limits of its own. Short once the job is being ended."""
        left = self._deadline - time.monotonic()
        return _ENDING_CALL if self._cancelled.is_set() else max(_ENDING_CALL, left)

    def _call(self, action: Action) -> Coroutine[Any, Any, Answer]:
        engine, prompt_id = self._engine, self._subject.prompt_id
        if isinstance(action, actions.Submit):
            self._on_submit()
            return engine.submit(self._subject)
        if isinstance(action, actions.LookQueue):
            return engine.queue()
        if isinstance(action, actions.LookHistory):
            return engine.history(prompt_id)
        if isinstance(action, actions.AskCancel):
            return engine.cancel(prompt_id)
        if isinstance(action, actions.Dequeue):
            return engine.dequeue(prompt_id)
        if isinstance(action, actions.Interrupt):
            return engine.interrupt(prompt_id)
        return engine.worker_died()


def _abandoned(action: Action) -> Answer:
    if isinstance(action, actions.Submit):
        return actions.Unclear("given up after the cancellation")
    if isinstance(action, actions.LookQueue | actions.LookHistory):
        return actions.LookFailed("given up after the cancellation")
    return actions.LogAnswer(False) if isinstance(action, actions.ReadLog) else CancelAnswer.FAILED
