"""An engine behind a login: each command that asks one sends the token of its address, and none prints it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes.cli import app, output
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import add_workflow

TOKEN = "s3cr3t-t0ken"
COMMANDS = {
    "doctor": ["doctor"],
    "loras": ["loras", "list"],
    "validate": ["workflows", "validate", "paint"],
    "run": ["run", "paint", "--prompt", "a"],
}
ENDS = {"doctor": 3, "loras": 0, "validate": 0, "run": 0}


@pytest.fixture
def ryla(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run ``ryla ...`` in this process and an empty folder: the exit status and all that it printed."""
    monkeypatch.setenv("RYLA_WORKFLOWS", str(add_workflow(tmp_path / "workflows")))
    monkeypatch.setenv("RYLA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(output.console, "width", 200)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ryla", *arguments])
        status = 0
        try:
            app.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, "".join(capfd.readouterr())

    return run


def address(url: str) -> str:
    return url.replace("://", f"://:{TOKEN}@")


@pytest.mark.parametrize("json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_token_is_sent_as_bearer_and_not_printed(ryla: Any, name: str, json: list[str]) -> None:
    with FakeEngine(seconds=0.02) as engine:
        status, printed = ryla(*COMMANDS[name], "--server", address(engine.url), *json)
        assert engine.logins == {f"Bearer {TOKEN}"}
        assert engine.authorizations == set(engine.requests)
    # The fake engine has no models, and so the doctor finds problems.
    assert status == ENDS[name]
    assert engine.url in printed or "saved" in printed
    assert TOKEN not in printed


@pytest.mark.parametrize("fault", ["login", "not comfyui", "gone"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_failure_does_not_print_it_either(ryla: Any, name: str, fault: str) -> None:
    with FakeEngine(fault) as engine:
        if fault == "gone":
            engine.kill()
        status, printed = ryla(*COMMANDS[name], "--server", address(engine.url))
    assert status in (3, 4)
    assert engine.url in printed
    assert TOKEN not in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_nor_does_an_address_that_is_none(ryla: Any, name: str) -> None:
    status, printed = ryla(*COMMANDS[name], "--server", f"http://:{TOKEN}@host:port")
    assert status in (2, 3)
    assert '"host:port" is not the URL of an engine' in printed
    assert TOKEN not in printed


def test_the_doctor_says_that_a_login_is_wanted(ryla: Any) -> None:
    with FakeEngine("login") as engine:
        status, printed = ryla("doctor", "--server", engine.url)
    assert status == 3
    assert "HTTP 401" in printed and "https://:TOKEN@HOST" in printed
