"""Which version this is: what ``pyproject.toml`` says, in a clone, a registry's archive and an installed package."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

NAME = "ryla-nodes"
_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def version() -> str:
    """Of the ``pyproject.toml`` that this package lies beside, else of the installed package; "" without both."""
    if _PROJECT.is_file():
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        project = tomllib.loads(_PROJECT.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == NAME:
            return str(project["version"])
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return ""
