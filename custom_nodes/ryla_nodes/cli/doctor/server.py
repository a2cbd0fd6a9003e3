"""A remote engine, as far as its API tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...client.api import EngineProbe
from ...client.limits import Limits
from ...client.transport import CallFailed
from ...errors import RylaError
from ...models import listed
from ...models.catalogue import Catalogue
from .comfyui import check_version
from .finding import Finding, ok, problem, warning
from .machine import Gpu, check_gpu

# In seconds: a ComfyUI with many packs takes long to list its nodes.
_ANSWER_WITHIN = 20.0
_NODE = "RYLA_FluxLoader"
_FIXES = {
    "engine_unreachable": "Start ComfyUI there, or correct the address.",
    "not_comfyui": "Correct the address and the port.",
}


def check(url: str, workflows: Mapping[str, Sequence[str]], catalogue: Catalogue, required: bool) -> Iterator[Finding]:
    """Version, GPU, pack, models and queue of the engine at ``url``, which may bear a login; no finding shows it."""
    limits = Limits(answer=_ANSWER_WITHIN)
    try:
        with EngineProbe(url, limits) as engine:
            stats = _stats(engine)
    except RylaError as error:
        yield problem("engine", error.message, _FIXES.get(error.code, error.hint))
        return
    with EngineProbe(url, limits) as engine:
        version = str(stats["system"].get("comfyui_version") or "unknown")
        embedded = "embedded" in version
        own = " (the embedded engine: its own small models stand in for missing ones)" if embedded else ""
        yield ok("engine", f"{engine.server}{own}")
        yield check_version(version)
        yield from check_gpu(_gpus(stats), workflows, catalogue)
        yield _pack(_answer(engine, "/object_info"))
        yield from _models(engine, workflows, catalogue, required, embedded)
        yield _queue(_answer(engine, "/queue"))


def _answer(engine: EngineProbe, path: str) -> Any:
    """The JSON of an answer, or the reason why there is none."""
    try:
        return engine.read(path)
    except CallFailed as error:
        return error


def _stats(engine: EngineProbe) -> Mapping[str, Any]:
    """What an engine tells about itself.

    Raises:
        RylaError: ``engine_unreachable``, ``engine_forbidden``, ``engine_error`` or ``not_comfyui``.
    """
    stats = _answer(engine, "/system_stats")
    if isinstance(stats, dict) and isinstance(stats.get("system"), dict):
        return stats
    try:
        engine.info()
    except RylaError as error:
        if error.code != "not_comfyui":
            raise
    reason = f": {stats}" if isinstance(stats, CallFailed) else ""
    raise RylaError("not_comfyui", f"What answers at {engine.server} is not a ComfyUI{reason}.", server=engine.server)


def _gpus(stats: Mapping[str, Any]) -> list[Gpu]:
    devices = stats.get("devices") or []
    return [Gpu(str(item["name"]), int(item["vram_total"])) for item in devices if item.get("type") == "cuda"]


def _pack(info: Any) -> Finding:
    if not isinstance(info, dict):
        return problem("pack", f"/object_info gives no node list: {info}", "Look at the engine's log.")
    ours = [name for name in info if name.startswith("RYLA_")]
    if _NODE in ours:
        return ok("pack", f"{len(ours)} nodes of {len(info)}")
    return problem(
        "pack",
        f"None of the engine's {len(info)} node classes is ours: the pack is not installed there, or failed to load.",
        "Install it there (ryla comfyui install), restart the engine and look for IMPORT FAILED in its log.",
    )


def _models(
    engine: EngineProbe, workflows: Mapping[str, Sequence[str]], catalogue: Catalogue, required: bool, embedded: bool
) -> Iterator[Finding]:
    """One finding a workflow. Missing files are a problem when ``required``, or when no workflow at all is complete."""
    wanted = {name: [catalogue.get(model_id) for model_id in ids] for name, ids in workflows.items()}
    folders = listed.folders([entry for entries in wanted.values() for entry in entries], catalogue)
    names = {folder: _answer(engine, f"/models/{folder}") for folder in folders}
    missing = {name: listed.missing(entries, names, catalogue) for name, entries in wanted.items()}
    report = problem if not embedded and (required or all(missing.values())) else warning
    for name, lacking in missing.items():
        if lacking:
            yield report(
                name, f"Not listed there: {', '.join(lacking)}.", f"On that machine: ryla models install {name}"
            )
        else:
            yield ok(name, f"{len(wanted[name])} models are listed")


def _queue(queue: Any) -> Finding:
    if not isinstance(queue, dict):
        return problem("queue", f"/queue does not answer: {queue}", "Restart the engine.")
    running, pending = len(queue.get("queue_running", [])), len(queue.get("queue_pending", []))
    return ok("queue", f"{running} running, {pending} waiting")
