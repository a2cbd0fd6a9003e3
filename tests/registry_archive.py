"""The ComfyUI registry's archive, packed as ``comfy node pack`` does it: git's files less those of .comfyignore."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def names() -> list[str]:
    """The files in it, new ones that are not committed yet included."""
    every = _listed("--exclude-standard")
    left_out = _listed("--ignored", "--exclude-from=.comfyignore")
    return sorted(name for name in every - left_out if (REPO / name).is_file())


def pack(archive: Path) -> Path:
    """Write the zip."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names():
            file.write(REPO / name, name)
    return archive


def unpack(archive: Path, custom_nodes: Path) -> Path:
    """The pack's folder below ``custom_nodes``, as ``comfy node install`` makes it of the registry's archive."""
    folder = custom_nodes / "ryla-nodes"
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def _listed(*options: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", *options]
    listed = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout
    return set(filter(None, listed.split("\0")))
