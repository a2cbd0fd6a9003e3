"""``ryla run`` for many pictures: a plan, a journal, a table of what goes on, a contact sheet."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...batch.journal import Journal
from ...batch.naming import distinct
from ...batch.rows import Row, expand, read
from ...batch.runner import Batch, Change, Planned, Summary
from ...client import Client
from ...client.async_client import bound
from ...client.polling import Progress
from ...client.results import check_target
from ...errors import RylaError
from ...settings import Settings
from ...workflows.workflow import Workflow
from .. import output
from .engines import Choice
from .engines import client as client_of
from .one import describe
from .request import Request, path_of, template_of_many, with_format

_WAIT = 120.0
_SHOWN = 12


def run_many(request: Request, choice: Choice) -> None:
    """Plan every job before the first one runs, run what is not made yet, say what was made.

    Raises:
        RylaError: any failure; ``batch_incomplete`` when some jobs failed and the others were made.
    """
    workflow, settings = request.workflow, request.settings
    template = template_of_many(request.output, workflow)
    common = with_format(workflow, request.given, template)
    given = read(request.batch) if request.batch is not None else []
    rows = expand(workflow.name, given, common, count=request.count, seeds=_seeds(request.seeds))
    journal = Journal(request.results or Path(template).parent / "results.jsonl", workflow.name)
    if request.dry_run:
        _print(_plan(workflow, rows, template, journal, settings))
        return
    if request.contact_sheet is not None:
        check_target(request.contact_sheet)
    with journal:
        plan = _plan(workflow, rows, template, journal, settings)
        for folder in {planned.path.parent for planned in plan}:
            check_target(folder / "picture")
        with client_of(choice, settings) as client:
            summary = _run(client, journal, plan, request.timeout)
    if request.contact_sheet is not None:
        _sheet(summary, plan, request.contact_sheet)
    _report(summary, plan, journal)


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        message = f'--seeds "{text}" is not a list of whole numbers.'
        raise RylaError("invalid_parameter", message, hint="Write it as --seeds 1,2,3")
    return [int(part) for part in parts]


def _plan(
    workflow: Workflow, rows: Sequence[Row], template: str, journal: Journal, settings: Settings
) -> list[Planned]:
    """Bind every row. One that was begun before keeps the seed and, when it is made, the file that it had."""
    bare: list[Planned] = []
    for row in rows:
        values = dict(row.values)
        seed = journal.seed(row)
        if seed is not None:
            values.setdefault("seed", seed)
        try:
            prompt = bound(workflow, values, settings)
        except RylaError as error:
            raise _at(row, error) from error
        bare.append(Planned(row, prompt, path_of(template, prompt, index=row.index, row=row.source)))
    made = [file for row in rows if (file := journal.finished(row)) is not None]
    open_rows = [planned for planned in bare if journal.finished(planned.row) is None]
    paths = dict(
        zip((planned.row.key for planned in open_rows), distinct((p.path for p in open_rows), made), strict=True)
    )
    return [Planned(p.row, p.prompt, paths.get(p.row.key) or journal.finished(p.row) or p.path) for p in bare]


def _at(row: Row, error: RylaError) -> RylaError:
    if row.source:
        error.message = f"Row {row.source}: {error.message}"
        error.details["row"] = row.source
    return error


def _run(client: Client, journal: Journal, plan: Sequence[Planned], timeout: float) -> Summary:
    view = _Jobs(len(plan))
    quiet = output.json_mode()

    def show(change: Change) -> None:
        line = view.take(change)
        if line and not quiet:
            output.console.print(line, markup=False, soft_wrap=True)

    with _shown(view, quiet):
        batch = Batch(client.asynchronous, journal, timeout=timeout, wait=_WAIT, on_change=show)
        return client.call(batch.run(plan))


def _sheet(summary: Summary, plan: Sequence[Planned], path: Path) -> None:
    from ...batch.contact_sheet import Thumbnail, make

    seeds = {planned.row.index: planned.prompt.seed for planned in plan}
    make([Thumbnail(file, f"{index}  seed {seeds[index]}") for index, file in summary.files.items()], path)


def _print(plan: Sequence[Planned]) -> None:
    for planned in plan:
        entry = {"index": planned.row.index, "path": str(planned.path), "parameters": planned.prompt.parameters}
        sys.stdout.write(json.dumps({**entry, "graph": planned.prompt.graph}, ensure_ascii=False, default=str) + "\n")


def _report(summary: Summary, plan: Sequence[Planned], journal: Journal) -> None:
    made, failed = len(summary.files), len(summary.failed)
    if failed:
        first = summary.failed[0].error
        reason = f" The first: {first.message}" if first is not None else ""
        message = f"{failed} of {len(plan)} jobs failed; see {journal.path}.{reason}"
        raise RylaError("batch_incomplete", message, made=made, failed=failed, results=str(journal.path))
    if output.json_mode():
        files = {index: str(file) for index, file in summary.files.items()}
        output.emit({"made": made, "results": str(journal.path), "files": files})
        return
    output.console.print(f"{made} pictures; see {journal.path}.", markup=False, soft_wrap=True)


class _Jobs:
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
def _shown(view: _Jobs, quiet: bool) -> Iterator[None]:
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
