"""What a person sees of running jobs: a bar for one, a table for many; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from ...batch.runner import Change
from ...client.polling import OnProgress, Phase, Progress
from .. import output

_SHOWN = 12


def describe(progress: Progress) -> str:
    """One job's state in a few words."""
    if progress.phase is Phase.PREPARING:
        return "preparing"
    if progress.phase is Phase.FETCHING:
        return "fetching the picture"
    if progress.phase is Phase.QUEUED:
        ahead = progress.ahead
        return "next in the queue" if ahead == 0 else f"in the queue, {ahead} ahead"
    return progress.node or "running"


@contextmanager
def one(quiet: bool) -> Iterator[OnProgress]:
    """A bar with the node's title and step while a job runs."""
    if quiet:
        yield lambda _: None
    elif not output.console.is_terminal:
        yield _Lines().show
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bar(*columns, console=output.console, transient=True) as bar:
            task = bar.add_task("preparing", total=None)

            def show(progress: Progress) -> None:
                counting = progress.steps > 0
                completed, total = (
                    (progress.step, progress.steps) if counting else (progress.nodes_done, progress.nodes_total)
                )
                bar.update(task, description=Text(describe(progress)).markup, completed=completed, total=total)

            yield show


class _Lines:
    """A line when the phase or the node changes: for logs."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, progress: Progress) -> None:
        line = describe(progress)
        if line != self._last:
            self._last = line
            output.console.print(line, style="dim", markup=False, soft_wrap=True)


class ManyView:
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
        return f"[{index}/{self._total}] {change.files[0]}{seed}  {result.timings.total:.1f} s"

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
def many(view: ManyView, quiet: bool) -> Iterator[None]:
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


def cancelling() -> None:
    """What the first Ctrl-C says."""
    if not output.json_mode():
        output.console.print("Cancelling on the engine; Ctrl-C again leaves at once.", style="dim")
