"""The program ``ryla`` as it is typed, run in the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from ryla_nodes.cli import app, output

Typed = Callable[..., tuple[int, str, str]]


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, width: int = 200) -> Typed:
    """Runs ``ryla WORDS ...`` in a terminal of ``width`` columns: (exit status, stdout, stderr)."""
    monkeypatch.setattr(output.console, "width", width)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ryla", *words, *arguments])
        status = 0
        try:
            app.main()
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run
