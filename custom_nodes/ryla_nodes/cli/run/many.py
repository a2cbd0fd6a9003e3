"""``ryla run`` for many pictures: a plan, a journal, a table of what goes on, a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...batch.journal import Journal
from ...batch.naming import Claims
from ...batch.plan import plan as planned_rows
from ...batch.rows import Row, expand, read
from ...batch.runner import Batch, Change, Planned, Summary
from ...client.results import SUFFIXES, check_target
from ...client.sync_client import SyncClient
from ...errors import RylaError
from ...workflows.workflow import BoundPrompt
from .. import output
from .engines import Choice
from .engines import client as client_of
from .request import Request, path_of, template_of_many, with_format
from .view import Jobs, shown

_WAIT = 120.0


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

    def place(row: Row, prompt: BoundPrompt) -> Path:
        return path_of(template, prompt, index=row.index, row=row.source)

    if request.dry_run:
        _print(planned_rows(workflow, rows, place, journal, claims, settings))
        return
    if sheet is not None:
        check_target(sheet)
    with journal:
        plan = planned_rows(workflow, rows, place, journal, claims, settings)
        for folder in {planned.path.parent for planned in plan}:
            check_target(folder / "picture")
        warnings = _unproved(plan, journal)
        with client_of(choice, settings) as client:
            summary = run_batch(client, journal, claims, plan, request.timeout)
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


def run_batch(
    client: SyncClient[Any], journal: Journal, claims: Claims, plan: Sequence[Planned], timeout: float
) -> Summary:
    """Run a plan, and show how it goes on."""
    view = Jobs(len(plan))
    quiet = output.json_mode()

    def show(change: Change) -> None:
        line = view.take(change)
        if line and not quiet:
            output.console.print(line, markup=False, soft_wrap=True)

    with shown(view, quiet):
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
        output.emit({**facts, **_scores(plan, journal), "warnings": list(warnings)})
        return
    for warning in warnings:
        output.say(warning)
    output.say(f"{sum(map(len, summary.files.values()))} pictures; see {journal.path}.")


def _scores(plan: Sequence[Planned], journal: Journal) -> dict[str, dict[int, Any]]:
    """The face scores of the rows, and of all pictures from which the best was taken; what no row has is left out."""
    lines = {planned.row.index: journal.last.get(planned.row.key, {}) for planned in plan}
    told = {
        name: {index: line[name] for index, line in lines.items() if name in line}
        for name in ("face_similarity", "best_of")
    }
    return {name: found for name, found in told.items() if found}
