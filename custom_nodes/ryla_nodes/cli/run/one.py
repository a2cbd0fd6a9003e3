"""``ryla run`` for one picture: run it, show how it goes on, say what was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from ...client import Result
from ...client.async_client import bound
from ...client.polling import OnProgress, Phase, Progress
from ...client.results import check_target, converted
from ...errors import RylaError
from ...workflows.graph import Graph
from ...workflows.workflow import BoundPrompt
from .. import output
from .engines import Choice
from .engines import client as client_of
from .request import Request, path_of, template_of_one, with_format

_REPORTED = {
    "RYLA_LoraLoader": "lora",
    "RYLA_FluxSpeed": "speed",
    "RYLA_FaceCrop": "face",
    "RYLA_FaceSimilarity": "face",
}


def run_one(request: Request, choice: Choice) -> None:
    """Bind, check where the picture goes, run, save, say what was made.

    Raises:
        RylaError: any failure.
    """
    workflow, settings = request.workflow, request.settings
    template = template_of_one(request.output, workflow)
    prompt = bound(workflow, with_format(workflow, request.given, template), settings)
    path = path_of(template, prompt)
    if request.dry_run:
        _print(prompt)
        return
    check_target(path)
    with client_of(choice, settings) as client:
        with _shown(output.json_mode()) as show:
            job = client.start(prompt, timeout=request.timeout, on_progress=show)
            result = client.wait(job).required()
        files = _save(result, path)
    _report(result, files, prompt.graph)


def _print(prompt: BoundPrompt) -> None:
    if output.json_mode():
        output.emit_object(prompt.graph)
    else:
        output.write_json(prompt.graph, indent=2)


def _save(result: Result, path: Path) -> list[Path]:
    try:
        return result.save(path)
    except RylaError:
        if not output.json_mode():
            kept = ", ".join("/".join(filter(None, (p.subfolder, p.filename))) for p in result.pictures)
            output.console.print(f"The picture is still on {result.server}, as {kept}.", markup=False, soft_wrap=True)
        raise


def _report(result: Result, files: list[Path], graph: Graph) -> None:
    if output.json_mode():
        output.emit(described(result, files))
        return
    for picture, file in zip(result.pictures, files, strict=True):
        changed = f", converted from {picture.format.name}" if converted(picture, file) else ""
        _line("saved", f"{file}  ({file.stat().st_size / 1024:.0f} kB{changed})")
    said = ""
    for name, fact in _facts(result, graph):
        _line("" if name == said else name, fact)
        said = name
    for name, fact in _told(result):
        _line(name, fact)
    if result.candidates:
        _line("face", best_line(result))
    if result.seed is not None:
        _line("seed", str(result.seed))
    timings = result.timings
    engine = f"{timings.execution:.1f} s on the engine, " if timings.execution is not None else ""
    _line("time", f"{timings.total:.1f} s ({engine}{timings.queued:.1f} s in its queue)")
    if result.cached:
        _line("note", "The engine had already made this picture and did not run the job again.")
    for warning in result.warnings:
        _line("warning", warning)


def _facts(result: Result, graph: Graph) -> Iterator[tuple[str, str]]:
    """What nodes reported: of a LoRA what matched and the trigger word, of a face its size and likeness."""
    for key, node in graph.items():
        name = _REPORTED.get(node["class_type"])
        if name is None or node["inputs"].get("lora_id") == "":
            continue
        for text in result.outputs.get(key, {}).get("text", ()):
            yield from ((name, line) for line in text.split("\n"))


def _line(name: str, text: str) -> None:
    output.console.print(f"[bold]{name:<8}[/]", end="")
    output.console.print(text, markup=False, soft_wrap=True)


def best_line(result: Result) -> str:
    """The scores of the pictures from which the best was taken, the kept one first."""
    kept, *others = sorted(result.candidates, key=lambda candidate: not candidate.chosen)
    rest = ", ".join(each.line() for each in others)
    return f"best of {len(others) + 1}: kept {kept.line()}, not {rest}"


def described(result: Result, files: list[Path]) -> dict[str, Any]:
    """A result as the object of ``--json``."""
    scored = {} if result.face_similarity is None else {"face_similarity": result.face_similarity}
    best_of = {"best_of": [each.as_dict() for each in result.candidates]} if result.candidates else {}
    return {
        "state": result.state.value,
        "workflow": result.workflow,
        "files": [str(file) for file in files],
        "seed": result.seed,
        "parameters": dict(result.parameters),
        "server": result.server,
        **result.told,
        **scored,
        **best_of,
        "prompt_id": result.prompt_id,
        "cached": result.cached,
        "attempts": result.attempts,
        "warnings": list(result.warnings),
        "outputs": dict(result.outputs),
        "timings": {
            "queued": result.timings.queued,
            "execution": result.timings.execution,
            "total": result.timings.total,
        },
    }


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
def _shown(quiet: bool) -> Iterator[OnProgress]:
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


def _told(result: Result) -> Iterator[tuple[str, str]]:
    """What only a gateway tells."""
    known = {name: fact for name, fact in result.told.items() if fact not in (None, "")}
    if "lora_used" in known:
        yield "lora", known["lora_used"]
    if "face_similarity" in known:
        yield "face", f"similarity {known['face_similarity']:.3f}"
    if "cost_usd" in known:
        gpu = f" on {known['gpu']}" if "gpu" in known else ""
        yield "cost", f"{known['cost_usd']:.6f} USD{gpu}"
    if "job_id" in known:
        yield "job", known["job_id"]
