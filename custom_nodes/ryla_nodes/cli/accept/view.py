"""How far an acceptance run is: a bar on a terminal, a line a step elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ...acceptance.options import Options, needs_lora
from ...acceptance.run import OnStep
from .. import output


def steps(options: Options, ours: bool) -> int:
    """How many steps a run has, if nothing is missing."""
    return sum(options.samples + 1 + ours + needs_lora(workflow) for workflow in options.workflows)


@contextmanager
def shown(options: Options, ours: bool) -> Iterator[OnStep]:
    """What to call with each step that begins (without a line) or is done."""
    if output.json_mode():
        yield lambda key, line: None
        return
    if not output.console.is_terminal:
        yield _say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=output.console, transient=True) as bar:
        task = bar.add_task("starting", total=steps(options, ours))

        def show(key: str, line: Mapping[str, Any] | None) -> None:
            bar.update(task, description=key, advance=0 if line is None else 1)
            if line is not None and line.get("error"):
                _say(key, line)

        yield show


def _say(key: str, line: Mapping[str, Any] | None) -> None:
    if line is None:
        return
    error, score = line.get("error"), line.get("face_similarity")
    seconds = line.get("cold") or line.get("seconds") or line.get("wall") or 0.0
    face = f"  face {score:.3f}" if score is not None else ""
    failed = f"  failed  {error['code']}: {error['message']}" if error else ""
    output.say(f"{key:<32}  {seconds:6.1f} s{face}{failed}")
