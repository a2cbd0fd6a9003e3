"""The ComfyUI of this machine: its version, how the pack got in, its yaml file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import RylaError
from ...models import workspace
from .finding import Finding, ok, problem, warning

FLOOR = (0, 3, 64)
_PACKAGE = "ryla_nodes"
_INSTALL = "ryla comfyui install"


def check(comfyui: Path) -> Iterator[Finding]:
    """Everything about the folder ``comfyui`` itself."""
    if not workspace.is_comfyui(comfyui):
        yield problem("comfyui", f"{comfyui} is not the folder of a ComfyUI.", _INSTALL)
        return
    yield ok("comfyui", str(comfyui))
    yield check_version(version(comfyui))
    try:
        extra = workspace.extra_model_paths(comfyui / "extra_model_paths.yaml")
    except RylaError as error:
        yield problem("model paths", f"{error.message} ComfyUI does not start with it.", error.hint)
        extra = []
    yield from _missing_folders(extra)
    yield check_pack(comfyui, [item.path for item in extra if item.folder == "custom_nodes"])


def version(comfyui: Path) -> str:
    """The version that a ComfyUI's folder says it is, or ``unknown``."""
    file = comfyui / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    match = re.search(r"__version__ *= *[\"']([\d.]+)", text)
    return match[1] if match else "unknown"


def check_version(found: str) -> Finding:
    """A ComfyUI's version against the oldest one that the pack is tested with."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", found))[:3]
    if numbers >= FLOOR:
        return ok("comfyui version", found)
    floor = ".".join(map(str, FLOOR))
    return problem("comfyui version", f"ComfyUI {found} is older than {floor}.", "comfy update comfy")


def _missing_folders(extra: list[workspace.ExtraPath]) -> Iterator[Finding]:
    gone = [item.path for item in extra if not item.path.is_dir()]
    if gone:
        yield warning(
            "model paths",
            f"extra_model_paths.yaml names {len(gone)} folder(s) that are not there, such as {gone[0]}.",
            "Correct the file, or mount the disk.",
        )


def check_pack(comfyui: Path, extra: list[Path]) -> Finding:
    """The routes by which the pack gets into this ComfyUI: exactly one is right."""
    folders = [comfyui / "custom_nodes", *extra]
    entries = [entry for folder in folders if folder.is_dir() for entry in sorted(folder.iterdir())]
    routes = {entry: route for entry in entries if (route := _route(entry))}
    active = {entry: route for entry, route in routes.items() if "disabled" not in route and "broken" not in route}
    if len(active) == 1:
        entry, route = next(iter(active.items()))
        return ok("pack", f"{entry} ({route})")
    if active:
        named = ", ".join(map(str, active))
        return problem("pack", f"The pack is there {len(active)} times: {named}.", "Delete all but one of them.")
    if routes:
        entry, route = next(iter(routes.items()))
        fix = f"Rename it to {entry.name.removesuffix('.disabled')}." if "disabled" in route else _INSTALL
        return problem("pack", f"{entry} is {route}.", fix)
    return problem("pack", f"The pack is in none of {', '.join(map(str, folders))}.", _INSTALL)


def _route(entry: Path) -> str:
    """How an entry of a custom_nodes folder brings the pack in; empty when it is something else."""
    name = entry.name.removesuffix(".disabled")
    if entry.is_symlink() and not entry.exists():
        return "a broken link" if "ryla" in name else ""
    inner = [entry / "custom_nodes" / _PACKAGE, entry] if entry.is_dir() else []
    if not any((folder / "extension.py").is_file() and folder.resolve().name == _PACKAGE for folder in inner):
        return ""
    if entry.name.endswith(".disabled"):
        return "disabled"
    if entry.is_symlink():
        return "linked"
    return "cloned" if (entry / "custom_nodes").is_dir() else "copied"
