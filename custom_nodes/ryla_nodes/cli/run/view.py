"""What a terminal shows of a batch while it works: the jobs that go on, how many are done, how long it may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...batch.runner import Change
from ...client.polling import Progress
from .. import output
from .one import best_line, describe

_SHOWN = 12


class Jobs:
    """The jobs of a batch: those that go on, and how many are done."""

    def __init__(self, total: int) -> None:
        self._total, self._before = total, 0
        self._done = self._failed = 0
        self._began = time.monotonic()
        self._running: dict[int, tuple[str, Progress]] = {}

    def take(self, change: Change) -> str:
        """Take news; the line to print for it, "" for none."""
        index, name = change.planned.row.index, change.planned.path.name
        if change.progress is not None:
            self._running[index] = (name, change.progress)
            return ""
        self._running.pop(index, None)
        result = change.result
        if result is None:
            self._before += 1
            return ""
        if result.error is not None:
            self._failed += 1
            return f"[{index}/{self._total}] failed  {result.error.code}: {result.error.message}"
        self._done += 1
        seed = f"  seed {result.seed}" if result.seed is not None else ""
        best = f", {best_line(result)}" if result.candidates else ""
        face = f"  face {result.face_similarity:.3f}{best}" if result.face_similarity is not None else ""
        return f"[{index}/{self._total}] {change.files[0]}{seed}  {result.timings.total:.1f} s{face}"

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False, title=self._title(), title_justify="left", title_style="bold")
        for column in ("job", "picture", "engine", "state", "step"):
            table.add_column(column, no_wrap=True)
        for index, (name, progress) in sorted(self._running.items())[:_SHOWN]:
            step = f"{progress.step}/{progress.steps}" if progress.steps else ""
            server = progress.server.split("://")[-1]
            table.add_row(str(index), Text(name), Text(server), Text(describe(progress)), step)
        return table

    def _title(self) -> str:
        done = self._before + self._done + self._failed
        parts = [f"{done} of {self._total}"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._before:
            parts.append(f"{self._before} made before")
        made = self._done + self._failed
        if made and done < self._total:
            left = (self._total - done) * (time.monotonic() - self._began) / made
            parts.append(f"about {_duration(left)} left")
        return ", ".join(parts)


@contextmanager
def shown(view: Jobs, quiet: bool) -> Iterator[None]:
    """Keep ``view`` on the screen, below the lines that are printed."""
    if quiet or not output.console.is_terminal:
        yield
    else:
        with Live(view, console=output.console, refresh_per_second=5, transient=True):
            yield


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
