"""``ryla loras``: the LoRAs of this machine or of an engine, what a file is, and putting files in and out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from .. import settings
from ..loras import families, ids, inspect, library
from ..loras.inspect import LoraInfo
from ..loras.store import LoraFile, LoraStore
from . import output

app = typer.Typer(no_args_is_help=True, help="List, inspect, add and remove character LoRAs.")

IdArgument = Annotated[str, typer.Argument(help="An id (7), a UUID, character-7, or a file name.", show_default=False)]
IdOption = Annotated[str, typer.Option("--id", help="What to call it; the file's own name if not given.")]
TriggerOption = Annotated[str, typer.Option(help="Trigger word; the file's own if not given.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the LoRA that has this id now.")]


class Format(str, Enum):
    """Formats that ``ryla loras demo`` writes."""

    KOHYA = "kohya"
    DIFFUSERS = "diffusers"
    AI_TOOLKIT = "ai-toolkit"
    COMFYUI = "comfyui"


@app.command("list")
def list_loras(
    server: Annotated[str, typer.Option(help="Engine to ask; RYLA_SERVER when not given.")] = "",
    local: Annotated[
        bool, typer.Option("--local", help="List this machine's folders even if RYLA_SERVER is set.")
    ] = False,
    json_: output.JsonOption = False,
) -> None:
    """List every LoRA: of an engine when one is named, else of this machine's folders."""
    servers = (server,) if server else settings.load().servers
    if servers and not local:
        _list_engines(servers)
        return
    lora_store = _store()
    rows = [library.describe(file) for file in lora_store.list()]
    if output.json_mode():
        links = [str(link) for link in lora_store.passed_over()]
        output.emit({"loras": rows, "folders": [str(root) for root in lora_store.roots], "passed_over": links})
        return
    _tell_passed_over(lora_store.passed_over())
    folders = "\n  ".join(map(str, lora_store.roots))
    if not rows:
        output.console.print(f"No LoRA in\n  {folders}", markup=False, soft_wrap=True)
        return
    table = Table("id", "family", "rank", "trigger", "size", "where", box=None, pad_edge=False)
    for row in rows:
        facts = [Text(row["error"], "red"), "", ""] if "error" in row else _columns(row)
        table.add_row(Text(row["id"], "bold"), *facts, decimal(row["size"]), Text(row["path"], overflow="fold"))
    output.console.print(table)


def _tell_passed_over(links: Iterable[Path]) -> None:
    for link in links:
        line = f"passed over {link}: a link that leads out of the LoRA folders (RYLA_LORA_ROOTS allows more)"
        output.console.print(line, markup=False, soft_wrap=True)


@app.command("inspect")
def inspect_lora(lora_id: IdArgument, json_: output.JsonOption = False) -> None:
    """Show what a LoRA is, from its header and its sidecar: family, format, rank, layers, trigger word."""
    file = _store().find(lora_id)
    info = inspect.inspect(file.path)
    if output.json_mode():
        output.emit({"id": file.id, **info.as_dict(), "also": [str(path) for path in file.also]})
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(file, info):
        table.add_row(Text(name, "bold"), Text(value, overflow="fold"))
    output.console.print(table)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A .safetensors file.", show_default=False)],
    lora_id: IdOption = "",
    trigger: TriggerOption = "",
    force: ForceOption = False,
    json_: output.JsonOption = False,
) -> None:
    """Check a LoRA file and copy it into the volume (or the first LoRA folder), with its trigger word beside it."""
    folder = library.roots(settings.load())[0]
    _report_added(library.add(file, folder, lora_id=lora_id, trigger=trigger, force=force))


@app.command()
def remove(lora_id: IdArgument, json_: output.JsonOption = False) -> None:
    """Delete a LoRA's file and its sidecar."""
    removed = library.remove(_store(), lora_id)
    if output.json_mode():
        output.emit({"removed": [str(path) for path in removed]})
        return
    for path in removed:
        output.console.print(f"removed {path}", markup=False, soft_wrap=True)


@app.command()
def demo(
    lora_id: IdOption = "demo",
    style: Annotated[Format, typer.Option("--format", help="Whose key names to write.")] = Format.KOHYA,
    trigger: TriggerOption = "ohwx",
    force: ForceOption = False,
    json_: output.JsonOption = False,
) -> None:
    """Make an untrained LoRA for the embedded engine's models, to try formats and ids with; mira is a trained one."""
    from ..engines import embedded

    embedded.require()
    from ..engines.embedded.inference import demo_lora
    from ..models import shipped
    from ..models.headers import read_header

    shipped.require()
    transformer = read_header(shipped.path("ryla-paint-flux"))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"demo{ids.SUFFIX}"
        demo_lora.write(made, transformer, style.value, trigger)
        added = library.add(made, library.roots(settings.load())[0], lora_id=lora_id, trigger=trigger, force=force)
    _report_added(added)


def _store() -> LoraStore:
    return library.of_machine(settings.load())


def _columns(row: dict[str, Any]) -> list[Text]:
    rank = "full" if row["rank"] is None else "-".join(dict.fromkeys(map(str, row["rank"])))
    return [Text(_family(row["family"])), Text(rank), Text(row["trigger_word"] or "")]


def _family(name: str) -> str:
    return name if name == "unknown" else families.title(name)


def _facts(file: LoraFile, info: LoraInfo) -> Iterable[tuple[str, str]]:
    yield "id", file.id
    yield "file", str(file.path)
    yield "size", decimal(info.size)
    yield "family", _family(info.family)
    yield "format", f"{info.format} ({', '.join(info.algorithms)})"
    yield "rank", info.rank_text
    yield "alpha", "not in the metadata" if info.alpha is None else f"{info.alpha:g}"
    yield "patches", f"{info.modules} layers of {', '.join(info.components)}"
    yield "layers", ", ".join(info.targets)
    yield "dtype", info.dtype
    yield "trigger", f"{info.trigger_word} (from {info.trigger_source})" if info.trigger_word else "none known"
    yield "base model", info.base_model or "not said"
    yield "trained by", info.tool or "not said"
    yield from (("note", note) for note in info.notes)
    if info.foreign:
        yield "layout", f"{info.foreign}, which ComfyUI does not read. {info.advice}"
    if file.also:
        yield "also", ", ".join(map(str, file.also))


def _report_added(file: LoraFile) -> None:
    info = inspect.inspect(file.path)
    others = [path for path in _store().find(file.id).also if path != file.path]
    if output.json_mode():
        output.emit({"id": file.id, **info.as_dict(), "also": [str(path) for path in others]})
        return
    trigger = f"trigger word {info.trigger_word!r}" if info.trigger_word else "no trigger word known (--trigger WORD)"
    line = f"added {file.id}: {file.path} ({families.title(info.family)}, {info.kind}, {trigger})"
    output.console.print(line, markup=False, soft_wrap=True)
    for path in others:
        output.console.print(f"another file answers to {file.id} too: {path}", markup=False, soft_wrap=True)


def _list_engines(servers: Iterable[str]) -> None:
    """What engines offer: names only, as ComfyUI tells no more about its files."""
    rows = [
        {"id": ids.short_id(name), "file": name, "server": server}
        for server, names in map(_offered, servers)
        for name in names
    ]
    if output.json_mode():
        output.emit({"loras": rows})
        return
    table = Table("id", "file", "engine", box=None, pad_edge=False)
    for row in rows:
        table.add_row(Text(row["id"], "bold"), Text(row["file"], overflow="fold"), Text(row["server"]))
    output.console.print(table if rows else "No LoRA there.")


def _offered(url: str) -> tuple[str, list[str]]:
    """An engine's address without its login, and the files in its loras folders without the pickles: no workflow here
    loads those."""
    # Only this question needs an HTTP client.
    from ..client.api import EngineProbe

    with EngineProbe(url) as engine:
        engine.info()
        return engine.server, [name for name in engine.models("loras") if name.casefold().endswith(ids.SUFFIX)]
