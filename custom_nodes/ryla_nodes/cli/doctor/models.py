"""The state of each workflow's model files, without reading every byte of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import RylaError
from ...models import hub, resolve, selection
from ...models.catalogue import Catalogue, ModelEntry
from ...models.identify import examine
from ..models.context import Context
from ..models.view import size
from .finding import Finding, ok, problem, warning


@dataclass
class State:
    """What of one workflow is there, missing and damaged."""

    present: list[ModelEntry] = field(default_factory=list)
    missing: list[ModelEntry] = field(default_factory=list)
    damaged: list[RylaError] = field(default_factory=list)


def states(ctx: Context, workflows: Mapping[str, Sequence[str]]) -> dict[str, State]:
    """Look at the files of each workflow."""
    return {name: _state(ctx, [ctx.catalogue.get(model_id) for model_id in ids]) for name, ids in workflows.items()}


def _state(ctx: Context, wanted: list[ModelEntry]) -> State:
    state = State()
    for entry in selection.as_installed(wanted, ctx.folders, ctx.catalogue):
        try:
            there = _is_there(ctx, entry)
        except RylaError as error:
            state.damaged.append(error)
        else:
            (state.present if there else state.missing).append(entry)
    return state


def _is_there(ctx: Context, entry: ModelEntry) -> bool:
    """Whether an entry is there; raises what ``resolve.locate`` and the size say against it."""
    links = [root / entry.filename for root in ctx.folders.get(entry.folder)]
    dangling = next((link for link in links if link.is_symlink() and not link.exists()), None)
    if dangling is not None:
        raise RylaError("unreadable_file", f"{dangling} links to nothing.", path=dangling)
    try:
        found = resolve.locate(entry, ctx.folders, ctx.catalogue)
    except RylaError as error:
        if error.code == "missing_model":
            return False
        raise
    for part in ctx.catalogue.files(found.entry):
        path = resolve.find_entry(part, ctx.folders, ctx.catalogue)
        if path is not None and found.entry.is_bundle:
            examine(path)
        if path is not None and part.size is not None and path.stat().st_size != part.size:
            has, wanted = path.stat().st_size, part.size
            raise RylaError("wrong_size", f"{path} has {has:,} bytes, {part.id} has {wanted:,}.", path=path)
    return True


def check(found: Mapping[str, State], catalogue: Catalogue, required: bool) -> Iterator[Finding]:
    """One finding a workflow. Missing files are a problem when ``required``, or when no workflow at all is complete."""
    complete = [name for name, state in found.items() if not state.missing and not state.damaged]
    for name, state in found.items():
        if state.damaged:
            yield problem(name, state.damaged[0].message, _fix(name, state.damaged[0]))
        elif state.missing:
            names = ", ".join(entry.id for entry in state.missing)
            report = problem if required or not complete else warning
            yield report(
                name, f"Not there: {names} ({size(bytes_missing([state], catalogue))}).", f"ryla models install {name}"
            )
        else:
            yield ok(name, f"{len(state.present)} models are there")


def _fix(name: str, error: RylaError) -> str:
    return error.hint if error.code == "nested_models" else f"ryla models check {name} --repair"


def bytes_missing(found: Sequence[State], catalogue: Catalogue) -> int:
    """The sum of the missing files' sizes, each counted once."""
    missing = [entry for state in found for entry in state.missing]
    return sum(part.size or 0 for part in selection.files(missing, catalogue))


def check_token(found: Sequence[State]) -> Iterator[Finding]:
    """Whether a gated file is missing and there is no token to fetch it with."""
    gated = [entry for state in found for entry in state.missing if entry.gated and entry.id != "ae"]
    if gated and not hub.has_token():
        yield warning(
            "token",
            f"{gated[0].id} is gated and no HF_TOKEN is set.",
            f"Accept the licence at https://huggingface.co/{gated[0].repo} and set HF_TOKEN.",
        )
