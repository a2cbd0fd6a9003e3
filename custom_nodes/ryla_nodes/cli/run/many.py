"""``ryla run`` for many pictures: a plan, a journal, a table, a contact sheet."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ... import settings as environment
from ...batch.journal import Journal
from ...batch.naming import distinct
from ...batch.rows import Row, expand, read
from ...batch.runner import Batch, Change, Planned, Summary
from ...client import Client
from ...client.async_client import bound
from ...client.results import check_target
from ...errors import RylaError
from ...settings import Settings
from ...workflows.library import load
from ...workflows.workflow import Workflow
from .. import output
from . import display as run_display
from .arguments import refuse_misspelt
from .engines import Choice
from .engines import client as client_of
from .options import Request
from .targets import path_of, template_of_many, with_format

_WAIT = 120.0


def run_many(request: Request, choice: Choice) -> None:
    """Plan every job before the first one runs, run what is not made yet, say what was made.

    Raises:
        RylaError: any failure; ``batch_incomplete`` when some jobs failed and the others were made.
    """
    settings = environment.load()
    workflow = load(request.workflow, settings)
    refuse_misspelt(workflow, request.given)
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
    _tell(summary, plan, journal)


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
    view = run_display.ManyView(len(plan))
    quiet = output.json_mode()

    def show(change: Change) -> None:
        line = view.take(change)
        if line and not quiet:
            output.console.print(line, markup=False, soft_wrap=True)

    with run_display.many(view, quiet):
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


def _tell(summary: Summary, plan: Sequence[Planned], journal: Journal) -> None:
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
    output.console.print(f"{made} pictures; {journal.path} tells of each.", markup=False, soft_wrap=True)
