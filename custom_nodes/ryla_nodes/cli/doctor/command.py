"""``ryla doctor``: what is wrong with this set-up, and the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ...errors import RylaError
from ...models import shipped, workspace
from .. import output
from ..models.context import Context, context
from ..models.view import line
from . import comfyui as doctor_comfyui
from . import engine as doctor_engine
from . import machine as doctor_machine
from . import models as doctor_models
from . import python as doctor_python
from .finding import OK, PROBLEM, WARNING, Finding, ok, problem

_COLOURS = {OK: "green", WARNING: "yellow", PROBLEM: "red"}
_FACES = "antelopev2"


def doctor(
    server: Annotated[str, typer.Option(help="Look at a remote engine through its API instead.")] = "",
    workflow: Annotated[list[str] | None, typer.Option(help="Only what this workflow needs (repeatable).")] = None,
    comfyui: Annotated[Path | None, typer.Option(help="A ComfyUI's folder (else comfy-cli's workspace).")] = None,
    volume: Annotated[Path | None, typer.Option(help="A volume's folder (else RYLA_VOLUME).")] = None,
    python: Annotated[Path | None, typer.Option(help="The Python that runs ComfyUI (else its own venv).")] = None,
    json_: output.JsonOption = False,
) -> None:
    """Look at ComfyUI, its Python, the pack, the GPU, the embedded engine, the disk and the models; say what to do."""
    ctx = _context(volume, comfyui)
    workflows = _workflows(ctx, workflow)
    if server:
        from . import server as doctor_server

        findings = doctor_server.check(server, workflows, ctx.catalogue, required=bool(workflow))
    else:
        findings = _local(ctx, workflows, python, required=bool(workflow))
    _report(findings)


def _context(volume: Path | None, comfyui: Path | None) -> Context:
    """The environment with the options in it: unlike an installation, the doctor looks at both places."""
    found = context(volume, comfyui)
    known = found.settings
    return Context(
        replace(
            known, volume=found.volume or known.volume, comfyui=found.comfyui or known.comfyui or workspace.discover()
        )
    )


def _workflows(ctx: Context, names: list[str] | None) -> Mapping[str, Sequence[str]]:
    if not names:
        return ctx.workflows
    from ...workflows import manifest

    return {name: manifest.load(name, ctx.settings).models for name in names}


def _report(findings: Iterator[Finding]) -> None:
    seen = []
    for item in findings:
        seen.append(item)
        line(_COLOURS[item.level], item.level, 9, f"{item.check:<15}", item.message)
        if item.fix:
            line("", "", 26, "fix", item.fix)
    rows = [item.as_dict() for item in seen]
    problems = [item for item in seen if item.level == PROBLEM]
    if problems:
        named = ", ".join(item.check for item in problems)
        raise RylaError("setup_problems", f"{len(problems)} problem(s): {named}.", hint=problems[0].fix, findings=rows)
    if output.json_mode():
        output.emit({"findings": rows})


def _local(
    ctx: Context, workflows: Mapping[str, Sequence[str]], python: Path | None, *, required: bool
) -> Iterator[Finding]:
    gpus = doctor_machine.gpus()
    faces = any(_FACES in ids for ids in workflows.values())
    comfyui = ctx.settings.comfyui
    if comfyui is None:
        yield problem("comfyui", "No ComfyUI was found on this machine.", "ryla comfyui install")
    else:
        yield from doctor_comfyui.check(comfyui)
        if workspace.is_comfyui(comfyui):
            answer = doctor_python.ask(python or workspace.python_of(comfyui))
            yield from [answer] if isinstance(answer, Finding) else doctor_python.check(answer, bool(gpus), faces)
    yield _shipped()
    yield from _volume(ctx)
    yield from doctor_machine.check_gpu(gpus, workflows, ctx.catalogue)
    yield from doctor_engine.check(bool(gpus), comfyui is None, workflows, ctx.catalogue, ctx.settings.volume)
    yield from _models(ctx, workflows, required=required)


def _shipped() -> Finding:
    if not shipped.included():
        return ok("own models", "none: the registry's archive leaves out the embedded engine's small ones")
    try:
        shipped.require()
    except RylaError as error:
        return problem("own models", error.message, error.hint)
    return ok("own models", f"the embedded engine's small ones, in {shipped.ROOT}")


def _volume(ctx: Context) -> Iterator[Finding]:
    volume = ctx.settings.volume
    if volume is None:
        return
    if volume.is_dir():
        yield ok("volume", str(volume))
    else:
        yield problem("volume", f"The volume {volume} is not there.", "Mount it, or correct RYLA_VOLUME.")


def _models(ctx: Context, workflows: Mapping[str, Sequence[str]], *, required: bool) -> Iterator[Finding]:
    try:
        states = doctor_models.states(ctx, workflows)
        disk = list(doctor_machine.check_disk(ctx, doctor_models.bytes_missing(list(states.values()), ctx.catalogue)))
    except RylaError as error:
        # A broken yaml file, or no place for models at all: the finding about it stands above.
        if error.code not in ("invalid_model_paths", "no_target", "not_a_comfyui"):
            raise
        return
    yield from doctor_models.check(states, ctx.catalogue, required)
    yield from doctor_models.check_token(list(states.values()))
    yield from disk
