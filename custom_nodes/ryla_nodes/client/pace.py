"""How often to ask an engine about a job: often where an answer is likely, seldom elsewhere, never over a second.

The websocket only wakes the poller. While it talks, a slow poll is enough; when it is silent the pace follows the
job's age, so that the delay after the end stays near a tenth of the job's own time.
"""

from __future__ import annotations

from dataclasses import dataclass

from .protocol import Event

_RUSH = (0.0, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5)
_NEAR = 0.12
_SLOWEST = 1.0


@dataclass
class Pace:
    """Times between two looks at one accepted job; seconds on the driver's clock.

    Attributes:
        accepted_at: when the engine took the job.
        expected: how many seconds it should run, by earlier runs; None when unknown.
        expected_end: when it should be ready, by that or by its own progress.
        heard: whether the websocket is open and has said anything since the job was posted.
    """

    accepted_at: float
    expected: float | None = None
    expected_end: float | None = None
    heard: bool = False
    _rush: int | None = None
    _first_step: tuple[str, float, float] | None = None

    def hear(self, event: Event, now: float) -> None:
        """Take a websocket event of this job."""
        if event.terminal:
            # The engine's record may lag a moment behind.
            self._rush = 0
        elif event.step is not None and self.expected is None:
            self._step(*event.step, now)

    def start(self, now: float) -> None:
        """The engine works on the job from now on."""
        if self.expected is not None:
            self.expected_end = now + self.expected

    def _step(self, node: str, value: float, total: float, now: float) -> None:
        """Expect the end of the node by its own speed."""
        if self._first_step is None or self._first_step[0] != node:
            self._first_step = (node, now, value)
            return
        _, since, first = self._first_step
        if value > first:
            self.expected_end = now + (now - since) / (value - first) * (total - value)

    def delay(self, now: float) -> float:
        """Seconds until the next look."""
        if self._rush is not None and self._rush < len(_RUSH):
            self._rush += 1
            return _RUSH[self._rush - 1]
        by_age = _SLOWEST if self.heard else min(_SLOWEST, max(0.1, (now - self.accepted_at) / 10))
        return min(by_age, self._by_expectation(now))

    def _by_expectation(self, now: float) -> float:
        """Near the expected end _NEAR; before it, no longer than to the start of that window."""
        if self.expected_end is None:
            return _SLOWEST
        margin = max(0.2, 0.1 * (self.expected_end - self.accepted_at))
        if now > self.expected_end + 2 * margin:
            return _SLOWEST
        return max(_NEAR, self.expected_end - margin - now)
