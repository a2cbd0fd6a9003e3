"""Texts speak of nodes by the names that the editor shows."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
PACKAGE = REPO / "custom_nodes" / "ryla_nodes"
PAGES = sorted((PACKAGE / "web" / "docs").glob("*.md"))
# Nodes of ComfyUI itself that the help pages speak of.
CORE = {"Load Diffusion Model", "DualCLIPLoader", "Load VAE", "Load Checkpoint", "Load LoRA", "Load CLIP"}
# Where a text names a node: a capitalised name that begins like one of ours, after a word that leads to it.
MENTION = re.compile(
    r"\b(?:from|From|for|For|that|or|run|by) "
    r"((?:Apply|Character|Face|Load|Prompt|Save)(?: [A-Z]\w*(?:\.\d)?)+(?: \([^)]+\))?)"
)
OUR_OWN = re.compile(r"\bRYLA (?:Load|Save|Apply|Face|Flux|FLUX|Character|Prompt|SDXL|Instant)")
sys.path.insert(0, str(REPO / "scripts"))
make_locales: Any = importlib.import_module("make_locales")


def names() -> set[str]:
    """What our nodes are called: the whole name, or the part before its brackets."""
    whole = {schema.display_name for schema in make_locales.node_schemas()}
    return whole | {name.partition(" (")[0] for name in whole}


def literals() -> list[tuple[str, str]]:
    """Every string of the package, with its file."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((path.relative_to(PACKAGE).as_posix(), node.value))
    return found


def test_texts_name_nodes_that_there_are() -> None:
    known = names() | CORE
    wrong = [(path, name) for path, text in literals() for name in MENTION.findall(text) if name not in known]
    assert wrong == []
    assert [(path, text) for path, text in literals() if OUR_OWN.search(text)] == []


def test_the_texts_do_name_nodes() -> None:
    mentioned = {name for _, text in literals() for name in MENTION.findall(text)}
    assert {"Load InstantID", "Face Crop", "Apply InstantID", "Character LoRA"} <= mentioned


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_help_page_names_nodes_that_there_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in re.findall(r"\*\*(.+?)\*\*", text) if name not in names() | CORE] == []
    assert not OUR_OWN.search(text)
    title = next(schema.display_name for schema in make_locales.node_schemas() if schema.node_id == page.stem)
    assert text.startswith(f"# {title}\n"), "its title is the node's"
