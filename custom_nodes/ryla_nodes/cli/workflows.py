"""``ryla workflows``: which workflows there are, what can be asked of one, and whether an engine would take it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .. import settings
from ..errors import RylaError
from ..files import read_text
from ..workflows.graph import read_graph
from ..workflows.manifest import available, load, read
from ..workflows.object_info import recorded, versions
from ..workflows.parameter import Parameter
from ..workflows.validate import Problem, problems, require_valid
from ..workflows.workflow import Workflow
from . import output

_FEW_CHOICES = 4

app = typer.Typer(no_args_is_help=True, help="List, describe and validate workflows.")


@app.command("list")
def list_workflows(json_: output.JsonOption = False) -> None:
    """List every workflow with what it makes and what it requires."""
    rows = [_row(folder) for folder in available(settings.load()).values()]
    if output.json_mode():
        output.emit({"workflows": rows})
        return
    table = Table("workflow", "what", "required", "models", box=None, pad_edge=False)
    for row in rows:
        what = Text(row["error"], "red") if "error" in row else Text(row["summary"])
        required = ", ".join(row.get("required", ()))
        table.add_row(Text(row["name"], "bold"), what, required, ", ".join(row.get("models", ())))
    output.console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Workflow.", show_default=False)], json_: output.JsonOption = False
) -> None:
    """Show a workflow's parameters (default, range, aliases), outputs and models."""
    workflow = load(name, settings.load())
    if output.json_mode():
        output.emit(_described(workflow))
        return
    output.console.print(Text.assemble((workflow.name, "bold"), f"  {workflow.title}. {workflow.summary}"))
    output.console.print(_parameter_table(workflow))
    for parameter in filter(_has_many, workflow.parameters):
        output.console.print(Text.assemble((parameter.name, "bold"), f"  {', '.join(parameter.choices)}"))
    outputs = ", ".join(f'{declared.kind} from "{declared.title}"' for declared in workflow.outputs)
    output.console.print(f"[bold]outputs[/]  {outputs}")
    output.console.print(f"[bold]models[/]   {', '.join(workflow.models) or 'none'}")


@app.command()
def validate(
    workflow: Annotated[str, typer.Argument(help="Workflow, or a graph in API format (.json).", show_default=False)],
    server: Annotated[str | None, typer.Option(help="Base URL of the engine to ask.")] = None,
    object_info: Annotated[Path | None, typer.Option(help="A saved /object_info to ask.")] = None,
    json_: output.JsonOption = False,
) -> None:
    """Check that an engine would take a graph: classes, model names, values, links.

    Without an engine, the node classes recorded from the oldest and the newest tested ComfyUI are asked.
    """
    graph = _graph(workflow)
    asked = list(_sources(graph, server, object_info))
    found = {where: problems(graph, info) for where, info in asked}
    if not output.json_mode():
        for where, listed in found.items():
            _print_problems(where, listed)
    for where, info in asked:
        require_valid(graph, info, where=where)
    if output.json_mode():
        checked = [{"where": where, "problems": [p.as_dict() for p in listed]} for where, listed in found.items()]
        output.emit({"workflow": workflow, "checked": checked})


def _row(folder: Path) -> dict[str, Any]:
    try:
        workflow = read(folder)
    except RylaError as error:
        return {"name": folder.name, "path": str(folder), "error": error.message}
    return {
        "name": workflow.name,
        "path": str(folder),
        "title": workflow.title,
        "summary": workflow.summary,
        "required": [parameter.name for parameter in workflow.parameters if parameter.required],
        "models": list(workflow.models),
    }


def _described(workflow: Workflow) -> dict[str, Any]:
    return {key: value for key, value in asdict(workflow).items() if key != "graph"}


def _parameter_table(workflow: Workflow) -> Table:
    table = Table("parameter", "type", "default", "range", "", box=None, pad_edge=False)
    for parameter in workflow.parameters:
        aliases = f" Also: {', '.join(parameter.aliases)}." if parameter.aliases else ""
        values = (parameter.type, _default(parameter), _range(parameter), parameter.help + aliases)
        table.add_row(Text(parameter.name, "bold"), *map(Text, values))
    return table


def _has_many(parameter: Parameter) -> bool:
    return len(parameter.choices) > _FEW_CHOICES


def _default(parameter: Parameter) -> str:
    if parameter.required:
        return "required"
    if parameter.default is None:
        return "random"
    return json.dumps(parameter.default, ensure_ascii=False)


def _range(parameter: Parameter) -> str:
    if parameter.choices:
        return f"{len(parameter.choices)} choices, below" if _has_many(parameter) else ", ".join(parameter.choices)
    if parameter.type == "seed":
        return "0 to 2^64 - 1"
    low = "" if parameter.min is None else f"{parameter.min:g}"
    high = "" if parameter.max is None else f"{parameter.max:g}"
    step = "" if parameter.step is None else f", step {parameter.step:g}"
    return f"{low} to {high}{step}" if low or high else ""


def _graph(workflow: str) -> Mapping[str, Any]:
    path = Path(workflow)
    if path.suffix == ".json":
        return read_graph(path)
    return load(workflow, settings.load()).graph


def _sources(
    graph: Mapping[str, Any], server: str | None, object_info: Path | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if server:
        yield _ask(server, {str(node.get("class_type")) for node in graph.values()})
    if object_info:
        yield str(object_info), _saved(object_info)
    if not server and not object_info:
        for version in versions():
            yield f"ComfyUI {version} (recorded)", recorded(version)


def _ask(server: str, classes: set[str]) -> tuple[str, Mapping[str, Any]]:
    # Only this question needs an HTTP client.
    from ..client.api import EngineProbe

    with EngineProbe(server) as engine:
        return f"{engine.server} (ComfyUI {engine.info().version})", engine.object_info(classes)


def _saved(path: Path) -> Mapping[str, Any]:
    try:
        saved = json.loads(read_text(path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise RylaError("invalid_object_info", f"{path} cannot be read as JSON: {error}.", path=str(path)) from error
    if not isinstance(saved, dict) or not all(isinstance(info, dict) and "input" in info for info in saved.values()):
        raise RylaError("invalid_object_info", f"{path} is not an /object_info of ComfyUI.", path=str(path))
    return saved


def _print_problems(where: str, listed: list[Problem]) -> None:
    errors = sum(problem.severity == "error" for problem in listed)
    verdict = Text(f"{errors} errors", "red") if errors else Text("valid", "green")
    output.console.print(Text.assemble((where, "bold"), "  ", verdict))
    for problem in listed:
        style = "red" if problem.severity == "error" else "yellow"
        output.console.print(Text.assemble("  ", (problem.code, style), f"  {problem.message}"), soft_wrap=True)
        if problem.hint:
            output.console.print(Text.assemble("    ", ("next", "bold"), f"  {problem.hint}"), soft_wrap=True)
