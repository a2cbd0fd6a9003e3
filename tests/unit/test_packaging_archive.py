"""The registry's archive: what is in it, and that it works from the folder that it is unpacked to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import registry_archive
from registry_archive import REPO
from ryla_nodes.nodes import node_classes

LIMIT = 3_000_000
TOP = {
    "CHANGELOG.md", "LICENSE", "README.md", "__init__.py", "custom_nodes", "example_workflows", "locales",
    "prestartup_script.py", "pyproject.toml", "requirements.txt", "scripts", "workflows",
}  # fmt: skip
PACKAGE = "custom_nodes/ryla_nodes/"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return registry_archive.pack(tmp_path_factory.mktemp("archive") / "node.zip")


@pytest.fixture(scope="module")
def pack(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive."""
    return registry_archive.unpack(archive, tmp_path_factory.mktemp("custom_nodes"))


def script(pack: Path, name: str, *words: str) -> tuple[int, dict[str, Any]]:
    """``python scripts/NAME WORDS --json`` on a machine where nothing is set: exit status and answer."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    command = [sys.executable, str(pack / "scripts" / name), *words, "--json"]
    environ["RYLA_HOME"] = str(pack.parent / "home")
    done = subprocess.run(command, cwd=pack.parent, env=environ, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_it_holds_the_pack_and_nothing_of_the_workshop() -> None:
    names = registry_archive.names()
    assert {name.partition("/")[0] for name in names} == TOP
    assert [name for name in names if "/paint/" in name or name.endswith((".safetensors", ".lock"))] == []
    scripts = {name for name in names if name.startswith("scripts/")}
    assert scripts == {"scripts/install_models.py", "scripts/run_workflow.py", "scripts/ryla.py"}


def test_it_holds_every_module_and_every_help_page() -> None:
    names = set(registry_archive.names())
    modules = {path.relative_to(REPO).as_posix() for path in (REPO / PACKAGE).rglob("*.py")}
    assert modules <= names
    pages = {path.relative_to(REPO).as_posix() for path in (REPO / PACKAGE / "web" / "docs").glob("*.md")}
    assert len(pages) == len(node_classes()) and pages <= names
    assert {f"{PACKAGE}models/catalogue.toml", f"{PACKAGE}py.typed"} <= names


def test_it_holds_every_template_with_its_picture_and_every_language() -> None:
    names = set(registry_archive.names())
    for folder, count in (("example_workflows", 8), ("locales", 7)):
        for root in ("", PACKAGE):
            there = {path.relative_to(REPO).as_posix() for path in (REPO / root / folder).rglob("*.j*")}
            assert len(there) == count and there <= names


def test_it_is_small(archive: Path) -> None:
    assert archive.stat().st_size < LIMIT


def test_its_models_can_be_listed_and_checked(pack: Path) -> None:
    status, listed = script(pack, "install_models.py", "list")
    assert status == 0
    assert {"flux1-dev", "ryla-paint-flux"} <= {model["id"] for model in listed["models"]}
    assert script(pack, "install_models.py", "check")[0] == 0, "small models that were left out are no damage"


def test_its_workflows_can_be_run(pack: Path) -> None:
    status, graph = script(pack, "run_workflow.py", "flux-lora", "--prompt", "x", "--lora-id", "7", "--dry-run")
    assert status == 0
    assert "7" in {node["inputs"].get("lora_id") for node in graph.values()}


def test_the_embedded_engine_says_that_its_small_models_were_left_out(pack: Path) -> None:
    words = ("flux-dev", "--prompt", "x", "--engine", "embedded", "--width", "256", "--height", "256")
    status, told = script(pack, "run_workflow.py", *words, "-o", str(pack.parent / "x.png"))
    error = told["error"]
    assert (status, error["code"]) == (7, "damaged_package")
    assert "This copy of ryla-nodes leaves out the embedded engine's small models" in error["message"]
    assert "git clone" in error["hint"] and "--server" in error["hint"]
    assert script(pack, "install_models.py", "ryla-paint-ae")[1]["error"]["hint"] == error["hint"]
