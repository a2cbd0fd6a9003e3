"""Every code that is raised is registered, and every registered code is raised."""

from __future__ import annotations

import ast
from pathlib import Path

import ryla_nodes
from ryla_nodes.errors import REGISTRY, RylaError

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


def test_codes_are_public_names_with_a_meaning_a_hint_and_statuses() -> None:
    for code, entry in REGISTRY.items():
        assert code.isidentifier() and code == code.lower()
        assert entry.meaning.endswith(".") and entry.hint
        assert entry.exit_status in {2, 3, 4, 5, 6, 7, 130}
        assert 400 <= entry.http_status <= 599


def test_an_error_carries_its_hint_and_details() -> None:
    error = RylaError("unknown_workflow", "No workflow 'x'.", hint="ryla workflows list", nearest=["flux-dev"])
    assert str(error) == "No workflow 'x'. Next: ryla workflows list"
    assert error.as_dict()["details"] == {"nearest": ["flux-dev"]}
