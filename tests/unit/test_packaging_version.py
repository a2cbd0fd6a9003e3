"""The version is said in one place, and the registry is told what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ryla_nodes import version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]
RAW = "https://raw.githubusercontent.com/ryla-nodes/ryla-nodes/main/"


def test_the_version_is_that_of_pyproject() -> None:
    assert version.version() == VERSION
    command = "from ryla_nodes.cli.app import main; import sys; sys.argv[1:] = ['--version']; main()"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == f"ryla-nodes {VERSION}\n"


def test_an_installed_package_says_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "_PROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(version.metadata, "version", lambda name: {"ryla-nodes": "9.8.7"}[name])
    assert version.version() == "9.8.7"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\nversion = "1"\n', encoding="utf-8")
    assert version.version() == "9.8.7", "a package that lies beside the pyproject.toml of something else"


def test_the_changelog_begins_with_it() -> None:
    headings = re.findall(r"^## (.+)$", (REPO / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == VERSION


def test_the_workflows_nodes_carry_it() -> None:
    for path in (REPO / "workflows").glob("*/api.json"):
        graph = json.loads(path.read_text(encoding="utf-8"))
        own = [node["_meta"] for node in graph.values() if node["class_type"].startswith("RYLA_")]
        assert {(meta["cnr_id"], meta["ver"]) for meta in own} == {("ryla-nodes", VERSION)}, path


@pytest.mark.parametrize("key, shape", [("Icon", 1), ("Banner", 21 / 9)])
def test_the_registry_shows_pictures_that_are_there(key: str, shape: float) -> None:
    address = PROJECT["tool"]["comfy"][key]
    assert address.startswith(RAW)
    path = REPO / address.removeprefix(RAW)
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        assert picture.width / picture.height == pytest.approx(shape, abs=0.01)
        assert picture.width >= 400


def test_the_registry_is_told_who_and_for_what() -> None:
    comfy, urls = PROJECT["tool"]["comfy"], PROJECT["project"]["urls"]
    assert comfy["PublisherId"] and comfy["DisplayName"] == "RYLA" and comfy["requires-comfyui"] == ">=0.3.64"
    assert urls.keys() == {"Repository", "Documentation", "Changelog"}
    assert (REPO / urls["Changelog"].rpartition("/main/")[2]).is_file()
    assert (REPO / urls["Documentation"].rpartition("/main/")[2]).is_dir()
