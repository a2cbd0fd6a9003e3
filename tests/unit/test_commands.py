"""Commands in messages: as ``ryla ...`` in a terminal, inside ComfyUI as what works there, ready to be pasted."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ryla_nodes
from ryla_nodes import commands
from ryla_nodes.commands import Scripts
from ryla_nodes.errors import REGISTRY, RylaError, RylaErrors

PACKAGE = Path(ryla_nodes.__file__).parent
SCRIPTS = PACKAGE.parents[1] / "scripts"
# What a node can reach; the rest speaks in terminals and over HTTP.
INSIDE = ("nodes", "engines", "models", "loras", "identity", "workflows")
BARE = re.compile(r"(?<![\w/.-])ryla (?:models|loras|face|doctor|workflows|run|serve|engine|comfyui)\b")


@pytest.fixture
def spoken(tmp_path: Path) -> Iterator[Scripts]:
    """This process speaks as one of a ComfyUI whose folders have spaces and quotes in their names."""
    scripts = Scripts(sys.executable, str(SCRIPTS), ("--comfyui", str(tmp_path / "Comfy UI")), windows=False)
    commands.speak(scripts)
    yield scripts
    commands.speak(None)


def hints() -> list[str]:
    """Every text of the package, and of the registry, that names a command a node could tell."""
    found = {entry.hint for entry in REGISTRY.values()}
    for part in INSIDE:
        for path in (PACKAGE / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                texts = node.values if isinstance(node, ast.JoinedStr) else [node]
                parts = [each.value if isinstance(each, ast.Constant) else "NAME" for each in texts]
                if all(isinstance(each, str) for each in parts):
                    found.add("".join(map(str, parts)))
    return sorted(text for text in found if BARE.search(text) and "\n" not in text)


@pytest.mark.parametrize("hint", hints())
def test_every_hint_names_the_packs_own_scripts(spoken: Scripts, hint: str) -> None:
    told = str(RylaError("missing_model", "It is not there.", hint=hint))
    assert BARE.search(told) is None
    assert str(SCRIPTS) in told
    assert RylaError.parse(told) is not None


def test_each_of_their_commands_is_one_that_there_is(spoken: Scripts, tmp_path: Path) -> None:
    found = {match[0] for hint in hints() for match in re.finditer(r"ryla (?:models|loras) \w+|ryla \w+", hint)}
    assert {"ryla models install", "ryla models check", "ryla loras list", "ryla loras add"} <= found
    for command in sorted(found):
        line = f"{spoken.spell(command)} --help"
        done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and "Usage" in done.stdout, (command, done.stderr)


def test_a_command_is_pasted_as_it_stands_on_posix(tmp_path: Path) -> None:
    scripts = Scripts(
        "/opt/my python/bin/python", "/Comfy 'UI'/packs/ryla/scripts", ("--volume", "/m o"), windows=False
    )
    line = scripts.spell("ryla models install flux1-dev ae")
    assert shlex.split(line) == [
        "/opt/my python/bin/python", "/Comfy 'UI'/packs/ryla/scripts/install_models.py",
        "install", "--volume", "/m o", "flux1-dev", "ae",
    ]  # fmt: skip


def test_a_command_is_quoted_for_both_shells_of_windows() -> None:
    """PowerShell runs no line that begins with a quotation mark; within a word both shells take one."""
    place = ("--comfyui", "D:\\Comfy & Co")
    line = Scripts("C:\\Python 3\\python.exe", "D:\\packs\\scripts", place, windows=True).spell(
        "ryla models install ae"
    )
    assert (
        line == 'C:\\"Python 3\\python.exe" D:\\packs\\scripts\\install_models.py install --comfyui "D:\\Comfy & Co" ae'
    )
    assert commands.quoted(["pip", "insightface>=2.0"], windows=True) == 'pip "insightface>=2.0"'


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("place", [(), ("--volume", "D:/a b"), ("--comfyui", "/comfy")])
@pytest.mark.parametrize("command", ["ryla models install flux-dev", "ryla models check --repair", "ryla loras list"])
def test_another_process_reads_it_as_ryla_again(command: str, place: tuple[str, ...], windows: bool) -> None:
    scripts = Scripts("C:\\a b\\python" if windows else "/a b/python", "/x y/scripts", place, windows=windows)
    assert commands.plain(f"Do it, then: {scripts.spell(command)}") == f"Do it, then: {command}"


def test_an_error_is_told_and_read_back(spoken: Scripts) -> None:
    error = RylaError("missing_model", "ae is not there.", hint="ryla models install ae")
    assert f"{SCRIPTS}/install_models.py install" in str(error)
    read = RylaError.parse(str(error))
    assert read is not None and read.hint == error.hint
    assert error.as_dict()["hint"] == "ryla models install ae"


def test_several_errors_are_read_back_one_by_one() -> None:
    errors = [RylaError("insightface_missing", "No InsightFace."), RylaError("missing_model", "No ae.", hint="x y")]
    read = RylaError.parse_all(f"model - {RylaErrors(errors)}")
    assert [(each.code, each.message, each.hint) for each in read] == [
        ("insightface_missing", "model - No InsightFace.", REGISTRY["insightface_missing"].hint),
        ("missing_model", "No ae.", "x y"),
    ]


def test_a_terminal_is_told_of_ryla() -> None:
    assert str(RylaError("lora_not_found", "No LoRA.")).endswith("Next: ryla loras list [lora_not_found]")
