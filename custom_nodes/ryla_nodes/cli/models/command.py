"""``ryla models``: list, show, install, check, link and remove the model files of the catalogue."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ...errors import RylaError
from ...models import catalogue as catalogues
from ...models import hub, plan, selection, shipped
from ...models import link as links
from ...models.catalogue import ModelEntry
from ...models.check import MISSING, Finding
from ...models.check import check as check_entry
from ...models.install import FAILED, PRESENT, Installer, Outcome
from ...models.resolve import find_entry
from .. import output
from . import view
from .context import Context, context

app = typer.Typer(no_args_is_help=True, help="Install model files and prove that they are right.")


class Precision(str, Enum):
    """Which form of the models that exist in two."""

    FP16 = "fp16"
    FP8 = "fp8"


Names = Annotated[list[str], typer.Argument(help="Model ids and workflow names.", show_default=False)]
OptionalNames = Annotated[
    list[str] | None, typer.Argument(help="Model ids and workflow names; all when left out.", show_default=False)
]
VolumeOption = Annotated[Path | None, typer.Option("--volume", help="A volume's folder (else RYLA_VOLUME).")]
ComfyOption = Annotated[Path | None, typer.Option("--comfyui", help="A ComfyUI's folder (else comfy-cli's workspace).")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_models(names: OptionalNames = None, json_: output.JsonOption = False) -> None:
    """The catalogue, or what some workflows need, and what of it is on this machine."""
    ctx = context()
    wanted = selection.select(names, ctx.workflows, ctx.catalogue) if names else list(ctx.catalogue)
    rows = [(entry, find_entry(entry, ctx.folders, ctx.catalogue)) for entry in wanted]
    if output.json_mode():
        output.emit({"models": [{**_facts(entry), "path": path} for entry, path in rows], "workflows": ctx.workflows})
        return
    view.show_entries(ctx.catalogue, ((entry, _here(path)) for entry, path in rows))


def _here(path: Path | None) -> str:
    if path is None:
        return "-"
    return "shipped" if shipped.holds(path) else "yes"


@app.command()
def show(name: Annotated[str, typer.Argument(help="A model id.")], json_: output.JsonOption = False) -> None:
    """Everything that is known about one model."""
    ctx = context()
    entry = ctx.catalogue.get(name)
    path = find_entry(entry, ctx.folders, ctx.catalogue)
    users = [workflow for workflow, ids in ctx.workflows.items() if name in ids]
    facts = {
        **_facts(entry),
        "sources": [shipped.SOURCE] if entry.shipped else list(map(str, catalogues.sources_of(entry, ctx.catalogue))),
        "workflows": users,
        "path": path,
        "searched": ctx.folders.get(entry.folder),
    }
    if output.json_mode():
        output.emit({"model": facts})
        return
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        output.console.print(f"{key:<14}{'-' if text in (None, '') else text}", markup=False, soft_wrap=True)


def _facts(entry: ModelEntry) -> dict[str, object]:
    names = (
        "id", "title", "kind", "folder", "filename", "size", "sha256", "repo", "path", "revision",
        "license", "license_url", "gated", "precision", "alternatives", "parts", "shipped",
    )  # fmt: skip
    return {("repo_path" if name == "path" else name): getattr(entry, name) for name in names}


@app.command()
def install(
    names: OptionalNames = None,
    every: Annotated[bool, typer.Option("--all", help="The whole catalogue.")] = False,
    volume: VolumeOption = None,
    comfyui: ComfyOption = None,
    precision: Annotated[Precision | None, typer.Option(help="fp8 takes half the space and memory.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=16, help="Files at a time.")] = 4,
    yes: YesOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    json_: output.JsonOption = False,
) -> None:
    """Fetch model files, verify them and put them where ComfyUI looks."""
    ctx = context(volume, comfyui)
    if not names and not every:
        raise RylaError("unknown_model", "Say what to install: model ids, workflow names, or --all.")
    named = selection.files(selection.select(names or [], ctx.workflows, ctx.catalogue), ctx.catalogue)
    if any(entry.shipped for entry in named):
        shipped.require()
        if not ctx.placed and all(entry.shipped for entry in named):
            _report_shipped(named)
            return
    files = selection.files(_chosen(ctx, names or [], every, precision), ctx.catalogue)
    _carry_out(ctx, plan.make(files, ctx.target, ctx.catalogue, ctx.elsewhere), jobs, yes=yes, dry_run=dry_run)


def _chosen(ctx: Context, names: list[str], every: bool, precision: Precision | None) -> list[ModelEntry]:
    """The entries to install; what a workflow needs is left out when another form of it is there already."""
    if every:
        return [entry for entry in ctx.catalogue if not entry.shipped]
    wanted = selection.select(names, ctx.workflows, ctx.catalogue, precision.value if precision else None)
    if precision is not None:
        return wanted
    folders = ctx.target.folders
    used = selection.as_installed(wanted, folders, ctx.catalogue)
    return [entry for entry in wanted if entry in used or entry.id in names]


def _report_shipped(files: list[ModelEntry]) -> None:
    outcomes = [Outcome(entry, PRESENT, shipped.path(entry.id)) for entry in files]
    for outcome in outcomes:
        view.line("green", outcome.state, 12, outcome.entry.id, f"{outcome.path} ({shipped.SOURCE})")
    view.line("", "", 12, "next", "nothing; --comfyui PATH or --volume PATH puts them there, too")
    if output.json_mode():
        output.emit({"results": [outcome.as_dict() for outcome in outcomes]})


def _carry_out(ctx: Context, work: plan.Plan, jobs: int, *, yes: bool, dry_run: bool) -> None:
    if not output.json_mode():
        view.show_plan(work, token=hub.has_token())
    if dry_run:
        if output.json_mode():
            output.emit({"steps": [step.as_dict() for step in work.steps], "needed": work.needed, "free": work.free})
        return
    work.require_space()
    if any(step.action != plan.PRESENT for step in work.steps):
        _confirm("Go ahead?", yes)
    outcomes = _run(ctx, work, jobs)
    results = [outcome.as_dict() for outcome in outcomes]
    failed = [outcome for outcome in outcomes if outcome.state == FAILED]
    if failed:
        raise _incomplete(failed, len(outcomes), results)
    if output.json_mode():
        output.emit({"results": results})


def _run(ctx: Context, work: plan.Plan, jobs: int) -> list[Outcome]:
    with view.ProgressView() as progress:
        installer = Installer(ctx.target, ctx.catalogue, ctx.hashes, progress, ctx.elsewhere)
        try:
            return installer.run(work, jobs)
        except KeyboardInterrupt as error:
            raise RylaError(
                "cancelled", "The installation was interrupted.", hint="Run the same command to go on."
            ) from error


def _incomplete(failed: list[Outcome], total: int, results: list[dict[str, object]]) -> RylaError:
    names = ", ".join(f"{item.entry.id} ({item.error.code if item.error else FAILED})" for item in failed)
    hint = failed[0].error.hint if failed[0].error else ""
    return RylaError(
        "models_incomplete", f"{len(failed)} of {total} files are missing: {names}.", hint=hint, results=results
    )


@app.command()
def check(
    names: OptionalNames = None,
    volume: VolumeOption = None,
    comfyui: ComfyOption = None,
    repair: Annotated[bool, typer.Option("--repair", help="Fetch again what is missing or damaged.")] = False,
    rehash: Annotated[bool, typer.Option("--rehash", help="Read every byte again, also of unchanged files.")] = False,
    yes: YesOption = False,
    json_: output.JsonOption = False,
) -> None:
    """Check files: there, size, hash, header, kind. Without names: every file of the catalogue that is here."""
    ctx = context(volume, comfyui)
    findings = _findings(ctx, names, rehash)
    bad = [finding for finding in findings if not finding.ok]
    results = [finding.as_dict() for finding in findings]
    spoilt = next((finding for finding in bad if finding.entry.shipped and not ctx.placed), None)
    if spoilt is not None:
        raise shipped.damaged(shipped.path(spoilt.entry.id), spoilt.message, results=results)
    if bad and repair:
        damaged = {item.entry.id: item.path for item in bad if item.path is not None}
        work = plan.make([item.entry for item in bad], ctx.target, ctx.catalogue, ctx.elsewhere, damaged)
        _carry_out(ctx, work, 4, yes=yes, dry_run=False)
        return
    if bad:
        named = ", ".join(f"{item.entry.id} ({item.state})" for item in bad)
        absent = all(item.state == MISSING for item in bad)
        words = [
            "ryla models install" if absent else "ryla models check",
            *(names or []),
            *([] if absent else ["--repair"]),
        ]
        hint = " ".join(words) + ctx.options
        raise RylaError("models_incomplete", f"{len(bad)} of {len(findings)}: {named}.", hint=hint, results=results)
    if output.json_mode():
        output.emit({"results": results})


def _findings(ctx: Context, names: list[str] | None, rehash: bool) -> list[Finding]:
    entries = selection.select(names, ctx.workflows, ctx.catalogue) if names else list(ctx.catalogue)
    entries = selection.as_installed(entries, ctx.folders, ctx.catalogue) if names else entries
    findings = []
    with view.ProgressView() as progress:
        for entry in selection.files(entries, ctx.catalogue):
            advance = progress.phase(entry, "checking", entry.size)
            finding = check_entry(entry, ctx.folders, ctx.catalogue, ctx.hashes, advance, refresh=rehash)
            ours = entry.shipped and not ctx.placed and shipped.included()
            if finding.state != MISSING or ours or (names and not entry.optional):
                findings.append(finding)
                view.show_finding(finding)
    return findings


@app.command()
def link(
    names: OptionalNames = None,
    volume: VolumeOption = None,
    comfyui: ComfyOption = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Write extra_model_paths.yaml instead of links.")] = False,
    json_: output.JsonOption = False,
) -> None:
    """Make a volume's files visible to a ComfyUI without this pack."""
    ctx = context(comfyui=comfyui)
    source = volume.expanduser().absolute() if volume else ctx.settings.volume
    if source is None or not source.is_dir():
        raise RylaError("no_target", f"The volume {source or ''} is not there.".replace("  ", " "))
    target = ctx.comfyui_folder
    if yaml:
        file, changed = links.write_yaml(source, target)
        view.line("green", "written" if changed else "unchanged", 12, str(file), "")
        if output.json_mode():
            output.emit({"file": file, "changed": changed})
        return
    wanted = selection.files(selection.select(names, ctx.workflows, ctx.catalogue), ctx.catalogue) if names else None
    pairs = [(entry.folder, entry.filename) for entry in wanted] if wanted is not None else None
    _show_links(links.link_files(source, target, pairs))


def _show_links(made: list[links.Link]) -> None:
    for item in made:
        colour = "red" if item.state == links.BLOCKED else "green"
        view.line(colour, item.state, 12, str(item.place), f"-> {item.source}")
    blocked = [item for item in made if item.state == links.BLOCKED]
    results = [item.as_dict() for item in made]
    if blocked:
        raise RylaError(
            "link_blocked",
            f"{len(blocked)} of {len(made)} links have a file in their place, such as {blocked[0].place}.",
            results=results,
        )
    if output.json_mode():
        output.emit({"results": results})


@app.command()
def remove(
    names: Names,
    volume: VolumeOption = None,
    comfyui: ComfyOption = None,
    yes: YesOption = False,
    json_: output.JsonOption = False,
) -> None:
    """Delete model files (and their unfinished downloads) from the volume or the ComfyUI."""
    ctx = context(volume, comfyui)
    target = ctx.target
    entries = selection.files(selection.select(names, ctx.workflows, ctx.catalogue), ctx.catalogue)
    every = [path for entry in entries for path in (target.path(entry), *target.parts(entry))]
    paths = [path for path in every if path.is_file() or path.is_symlink()]
    for path in paths:
        output.console.print(f"delete  {view.size(path.lstat().st_size):>10}  {path}", markup=False, soft_wrap=True)
    if not paths:
        raise RylaError("missing_model", f"None of these files is in {target.root}.", hint="ryla models list")
    _confirm(f"Delete {len(paths)} file(s)?", yes)
    for path in paths:
        path.unlink()
    if output.json_mode():
        output.emit({"removed": paths})


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if output.json_mode() or not sys.stdin.isatty():
        raise RylaError("confirmation_required", "This command asks before it acts, and nobody is there to answer.")
    if not typer.confirm(question, err=True):
        raise RylaError("cancelled", "Nothing was done.", hint="Run it again with --yes.")
