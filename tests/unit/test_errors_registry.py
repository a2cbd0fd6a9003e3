"""Every code that is raised is registered, and every registered code is raised."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import ryla_nodes
import typer
from ryla_nodes.cli.app import app
from ryla_nodes.errors import REGISTRY, RylaError, by_code

PACKAGE = Path(ryla_nodes.__file__).parent


def _raised_codes() -> dict[str, str]:
    """The code of each ``RylaError("code", ...)`` in the package, with the place of its first use."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RylaError"):
                continue
            where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            first = node.args[0] if node.args else None
            assert isinstance(first, ast.Constant), f"{where}: the code has to be a literal"
            found.setdefault(str(first.value), where)
    return found


def test_every_raised_code_is_registered() -> None:
    unknown = {code: where for code, where in _raised_codes().items() if code not in REGISTRY}
    assert not unknown


def test_every_registered_code_is_raised() -> None:
    assert not set(REGISTRY) - set(_raised_codes())


def test_a_code_cannot_be_registered_twice() -> None:
    entry = REGISTRY["disk_full"]
    with pytest.raises(ValueError, match="disk_full is registered twice"):
        by_code([entry, replace(entry, meaning="Another.")])


def test_codes_are_public_names_with_a_meaning_a_hint_and_statuses() -> None:
    for code, entry in REGISTRY.items():
        assert code.isidentifier() and code == code.lower()
        assert entry.meaning.endswith(".") and entry.hint
        assert entry.exit_status in {2, 3, 4, 5, 6, 7, 130}
        assert 400 <= entry.http_status <= 599


@pytest.mark.parametrize("code", [code for code, entry in REGISTRY.items() if entry.hint.startswith("ryla ")])
def test_a_hint_that_is_a_command_is_one_that_there_is(code: str) -> None:
    command = typer.main.get_command(app)
    for word in REGISTRY[code].hint.split()[1:]:
        if word.startswith("--"):
            assert word in {name for param in command.params for name in param.opts} | {"--help"}
        elif hasattr(command, "commands"):
            command = command.commands[word]


def test_an_error_carries_its_hint_its_code_and_its_details() -> None:
    error = RylaError("unknown_workflow", "No workflow 'x'.", hint="ryla workflows list", nearest=["flux-dev"])
    assert str(error) == "No workflow 'x'. Next: ryla workflows list [unknown_workflow]"
    assert error.as_dict()["details"] == {"nearest": ["flux-dev"]}


@pytest.mark.parametrize("code", REGISTRY)
def test_every_error_is_read_again_from_its_text(code: str) -> None:
    error = RylaError(code, f"It was [not] this: {code}, 'x' - [/a/b].")
    read = RylaError.parse(str(error))
    assert read is not None
    assert (read.code, read.message, read.hint) == (error.code, error.message, error.hint)
    assert read.details == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora_id - No LoRA '8'. Next: ryla loras list [lora_not_found]", "lora_id - No LoRA '8'."),
        ("No LoRA '8'. Next: ryla loras list [lora_not_found]\n", "No LoRA '8'."),
        (
            "No LoRA '8'. Next: ryla loras list [lora_not_found])); on_missing - Another. Next: y [no_face]",
            "No LoRA '8'.",
        ),
        ("RylaError: two\nlines. Next: ryla loras list [lora_not_found]\n\nTIP: look.", "RylaError: two\nlines."),
    ],
)
def test_an_error_is_found_amid_other_text(text: str, message: str) -> None:
    read = RylaError.parse(text)
    assert read is not None
    assert (read.code, read.message, read.hint) == ("lora_not_found", message, "ryla loras list")


@pytest.mark.parametrize(
    "text", ["", "Failed.", "a Next: b", "x [no_such_code]", "lora_not_found", "x[lora_not_found]"]
)
def test_other_text_is_no_error_of_ours(text: str) -> None:
    assert RylaError.parse(text) is None


def test_a_code_behind_a_text_without_a_hint_brings_its_own() -> None:
    read = RylaError.parse("It went wrong [lora_vanished]")
    assert read is not None
    assert (read.message, read.hint) == ("It went wrong", REGISTRY["lora_vanished"].hint)
