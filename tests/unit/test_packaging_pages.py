"""The pages are true: links lead somewhere, files that are named exist, and examples are accepted as they stand."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from ryla_nodes.engines.schema import io
from ryla_nodes.models.catalogue import load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "custom_nodes" / "ryla_nodes"
PAGES = sorted([REPO / "README.md", *(REPO / "docs").glob("*.md"), *(PACKAGE / "web" / "docs").glob("*.md")])
ARCHITECTURE = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")


def _example(page: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (REPO / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found, page
    return found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_architecture_page_names_every_part_of_the_contract() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (item["layers"] for item in project["tool"]["importlinter"]["contracts"] if item["type"] == "layers")
    parts = {name.strip().removeprefix("ryla_nodes.") for layer in layers for name in re.split("[|:]", layer)}
    assert [part for part in sorted(parts) if f"`{part}" not in ARCHITECTURE] == []
    there = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert there - {"__init__"} == parts, "every part of the package has its layer"


def test_the_files_to_open_exist() -> None:
    table = ARCHITECTURE.partition("## Where a change goes")[2].partition("\n## ")[0]
    named = re.findall(r"`((?:[\w.]+/)+[\w.]*|errors\.py)`", table)
    assert len(named) >= 10
    assert [name for name in named if not (PACKAGE / name).exists() and not (REPO / name).exists()] == []


def test_the_node_of_the_page_is_a_node(tmp_path: Path) -> None:
    file = tmp_path / "tint.py"
    file.write_text(_example("adding-a-node.md", "python"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("ryla_nodes.nodes.tint", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert issubclass(module.Tint, io.ComfyNode)
    schema = module.Tint.GET_SCHEMA()
    assert schema.description and all(item.tooltip for item in schema.inputs)
    page = _example("adding-a-node.md", "markdown")
    assert [item.id for item in schema.inputs if f"`{item.id}`" not in page] == []


def test_the_model_of_the_page_is_a_model(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(_example("adding-a-model.md", "toml"), encoding="utf-8")
    assert load(file).get("dreamshaper-xl").kind == "sdxl_checkpoint"
