"""``ryla run`` for many pictures: a plan, a journal, a table of what goes on, a contact sheet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...batch.fingerprint import Fingerprints
from ...batch.journal import Journal
from ...batch.naming import Claims
from ...batch.rows import Row, expand, read
from ...batch.runner import Batch, Change, Planned, Summary
from ...client.async_client import bound
from ...client.polling import Progress
from ...client.results import SUFFIXES, check_target
from ...client.sync_client import SyncClient
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
    sheet = request.contact_sheet
    claims = Claims([journal.path, *([sheet] if sheet else [])], overwrite=request.overwrite)
    if request.dry_run:
        _print(_plan(workflow, rows, template, journal, claims, settings))
        return
    if sheet is not None:
        check_target(sheet)
    with journal:
        plan = _plan(workflow, rows, template, journal, claims, settings)
        for folder in {planned.path.parent for planned in plan}:
            check_target(folder / "picture")
        warnings = _unproved(plan, journal)
        with client_of(choice, settings) as client:
            summary = _run(client, journal, claims, plan, request.timeout)
    if sheet is not None:
        _sheet(summary, plan, sheet)
    _report(summary, plan, journal, [*warnings, *_renamed(summary, plan)])


def _unproved(plan: Sequence[Planned], journal: Journal) -> list[str]:
    """What to say of pictures of which nobody knows what they were made of."""
    count = sum(not planned.made and journal.unproved(planned.row) for planned in plan)
    if not count:
        return []
    told = (
        f"{journal.path} was written by an earlier version that did not say what pictures were made of: "
        f"{count} of them are made again; the old files stay."
    )
    return [told]


def _renamed(summary: Summary, plan: Sequence[Planned]) -> list[str]:
    """What to say of pictures that are not where the template puts them."""
    made = {planned.row.index: planned for planned in plan if not planned.made}
    return [
        f"{_path(made[index].path, files[0])} is another picture: {files[0]} was written (--overwrite replaces it)."
        for index, files in summary.files.items()
        if index in made and files[0] != _path(made[index].path, files[0])
    ]


def _path(planned: Path, file: Path) -> Path:
    return planned if planned.suffix.lower() in SUFFIXES else planned.with_name(planned.name + file.suffix)


def _seeds(text: str | None) -> list[int]:
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        message = f'--seeds "{text}" is not a list of whole numbers.'
        raise RylaError("invalid_parameter", message, hint="Write it as --seeds 1,2,3")
    return [int(part) for part in parts]


def _plan(
    workflow: Workflow, rows: Sequence[Row], template: str, journal: Journal, claims: Claims, settings: Settings
) -> list[Planned]:
    """Bind every row. One that was begun before keeps the seed and, when it is made, the files that it had."""
    fingerprints = Fingerprints(settings)
    bare: list[Planned] = []
    for row in rows:
        values = dict(row.values)
        seed = journal.seed(row)
        if seed is not None:
            values.setdefault("seed", seed)
        try:
            prompt = fingerprints.sealed(bound(workflow, values, settings))
        except RylaError as error:
            raise _at(row, error) from error
        path = path_of(template, prompt, index=row.index, row=row.source)
        bare.append(Planned(row, prompt, path, fingerprints.of(prompt)))
    made = _made(bare, journal)
    claims.keep(path for files in made.values() for path in files)
    return [_placed(planned, made.get(planned.row.index, ()), journal, claims) for planned in bare]


def _made(plan: Sequence[Planned], journal: Journal) -> dict[int, tuple[Path, ...]]:
    """Index of each row that is made -> its pictures; a row's own come before those of an equal job."""
    made: dict[int, tuple[Path, ...]] = {}
    claimed: set[Path] = set()
    for own in (True, False):
        for planned in plan:
            row = planned.row
            if row.index not in made:
                files = journal.made(planned.fingerprint, row if own else None, claimed)
                if files:
                    made[row.index] = files
                    claimed.update(files)
    return made


def _placed(planned: Planned, made: tuple[Path, ...], journal: Journal, claims: Claims) -> Planned:
    if made:
        return replace(planned, path=made[0], made=made)
    own = journal.own(planned.fingerprint, planned.row)
    return replace(planned, path=claims.plan(planned.path), own=own)


def _at(row: Row, error: RylaError) -> RylaError:
    if row.source:
        error.message = f"Row {row.source}: {error.message}"
        error.details["row"] = row.source
    return error


def _run(client: SyncClient[Any], journal: Journal, claims: Claims, plan: Sequence[Planned], timeout: float) -> Summary:
    view = _Jobs(len(plan))
    quiet = output.json_mode()

    def show(change: Change) -> None:
        line = view.take(change)
        if line and not quiet:
            output.console.print(line, markup=False, soft_wrap=True)

    with _shown(view, quiet):
        batch = Batch(client.asynchronous, journal, claims, timeout=timeout, wait=_WAIT, on_change=show)
        return client.call(batch.run(plan))


def _sheet(summary: Summary, plan: Sequence[Planned], path: Path) -> None:
    from ...batch.contact_sheet import Thumbnail, make

    seeds = {planned.row.index: planned.prompt.seed for planned in plan}
    make([Thumbnail(files[0], f"{index}  seed {seeds[index]}") for index, files in summary.files.items()], path)


def _print(plan: Sequence[Planned]) -> None:
    jobs = [
        {"index": planned.row.index, "path": str(planned.path), "parameters": planned.prompt.parameters,
         "graph": planned.prompt.graph}
        for planned in plan
    ]  # fmt: skip
    if output.json_mode():
        output.emit({"dry_run": True, "jobs": jobs})
        return
    for job in jobs:
        output.write_json(job)


def _report(summary: Summary, plan: Sequence[Planned], journal: Journal, warnings: Sequence[str]) -> None:
    made, failed = len(summary.files), len(summary.failed)
    if failed:
        first = summary.failed[0].error
        reason = f" The first: {first.message}" if first is not None else ""
        message = f"{failed} of {len(plan)} jobs failed; see {journal.path}.{reason}"
        raise RylaError("batch_incomplete", message, made=made, failed=failed, results=str(journal.path))
    if output.json_mode():
        files = {index: str(paths[0]) for index, paths in summary.files.items()}
        pictures = {index: [str(path) for path in paths] for index, paths in summary.files.items()}
        facts = {"made": made, "results": str(journal.path), "files": files, "pictures": pictures}
        output.emit({**facts, "warnings": list(warnings)})
        return
    for warning in warnings:
        output.say(warning)
    output.say(f"{sum(map(len, summary.files.values()))} pictures; see {journal.path}.")


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
