"""How the model commands look in a terminal: tables, licences, progress."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Literal

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from ... import commands
from ...files import Advance
from ...models.catalogue import Catalogue, ModelEntry
from ...models.check import Finding
from ...models.install import FAILED, Outcome
from ...models.plan import DOWNLOAD, PRESENT, Plan
from .. import output


def size(count: int | None) -> str:
    """Bytes for people: ``23.80 GB``."""
    if count is None:
        return "?"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} B"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        justify: Literal["left", "right"] = "right" if title == "size" else "left"
        table.add_column(title, justify=justify, no_wrap=title in ("model", "size"), overflow="fold")
    return table


def show_plan(plan: Plan, *, token: bool) -> None:
    """What will be fetched from where to where, its size, the licences, the free space, whether a token is missing."""
    table = _table("model", "action", "from", "to", "size", "licence")
    for step in plan.steps:
        action = f"replace, {step.action}" if step.replace else step.action
        origin = f"{step.origin} (gated)" if step.entry.gated and step.action != PRESENT else step.origin
        inside = step.target.is_relative_to(plan.target.root)
        place = step.target.relative_to(plan.target.root) if inside else step.target
        row = (step.entry.id, action, origin, str(place), size(step.entry.size), step.entry.license)
        table.add_row(*map(Text, row))
    output.console.print(table)
    for text, url in dict.fromkeys((step.entry.license, step.entry.license_url) for step in plan.steps):
        output.console.print(f"licence  {text}: {url}", markup=False, style="dim", soft_wrap=True)
    output.console.print(
        f"needs {size(plan.needed)} of {size(plan.free)} free on {plan.target.root}", markup=False, soft_wrap=True
    )
    gated = [step.entry for step in plan.steps if step.entry.gated and step.action == DOWNLOAD]
    if gated and not token:
        line(
            "yellow", "note", 6, gated[0].id, f"is gated: accept its licence at hf.co/{gated[0].repo} and set HF_TOKEN"
        )


def show_entries(catalogue: Catalogue, entries: Iterable[tuple[ModelEntry, str]]) -> None:
    """The catalogue with what is here; a bundle stands for its parts."""
    table = _table("model", "size", "folder", "here", "title")
    rows = list(entries)
    parts = {part for entry, _ in rows for part in entry.parts}
    for entry, state in rows:
        if entry.id not in parts:
            sizes = [part.size for part in catalogue.files(entry)]
            total = sum(count or 0 for count in sizes) if any(sizes) else None
            title = f"{entry.title} (gated)" if entry.gated else entry.title
            table.add_row(*map(Text, (entry.id, size(total), entry.folder, state, title)))
    output.console.print(table)


def line(colour: str, state: str, width: int, name: str, text: str) -> None:
    """One line: a coloured state, what it is about, and the rest as it is."""
    output.console.print(Text.assemble((f"{state:<{width}}", colour), f"{name}  {text}"), soft_wrap=True)


def show_finding(finding: Finding) -> None:
    """One line a file that was checked."""
    colour = "green" if finding.ok else "red"
    line(colour, finding.state, 18, finding.entry.id, finding.message or str(finding.path))


class ProgressView:
    """A bar a file on a terminal, a line a file elsewhere. Implements ``models.install.Reporter``."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=output.console,
            transient=True,
            disable=not output.console.is_terminal,
        )

    def __enter__(self) -> ProgressView:
        self._progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._progress.stop()

    def phase(self, entry: ModelEntry, what: str, total: int | None) -> Advance:
        """A new bar for what a file now goes through."""
        if entry.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(entry.id))
        task = self._progress.add_task(f"{entry.id}  {what}", total=total)
        self._tasks[entry.id] = task
        return lambda count: self._progress.advance(task, count)

    def done(self, outcome: Outcome) -> None:
        """The bar becomes a line."""
        if outcome.entry.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(outcome.entry.id))
        colour = "red" if outcome.state == FAILED else "green"
        text = outcome.error.message if outcome.error else str(outcome.path)
        line(colour, outcome.state, 12, outcome.entry.id, text)
        if outcome.error and outcome.error.hint:
            line("bold", "", 12, "next", commands.spelled(outcome.error.hint))
