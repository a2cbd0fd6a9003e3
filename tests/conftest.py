"""Fixtures for every part of the tests, and what ``RYLA_REQUIRE`` makes of a skip.

A test that lacks something (a ComfyUI, a browser, InsightFace, comfy-cli, Postgres) is skipped. With ``RYLA_REQUIRE``
set to anything it fails instead: whoever means to run everything is not told "passed" of less. What does not apply
here, however complete the machine is, begins its reason with ``Does not apply``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# Making packages of blocks takes a minute beside the tests; those that are about it switch it on.
os.environ["RYLA_AHEAD"] = "0"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, pytest.TestReport]:
    return _required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, pytest.CollectReport]:
    return _required((yield))


def _required(report: Any) -> Any:
    if not os.environ.get("RYLA_REQUIRE") or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return report
    told = report.longrepr
    reason = told[2].removeprefix("Skipped: ") if isinstance(told, tuple) else str(told)
    if not reason.startswith("Does not apply"):
        report.outcome, report.longrepr = "failed", f"RYLA_REQUIRE is set, and this would be skipped: {reason}"
    return report


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RYLA_HOME whose ``models/`` holds the small Flux, made once a session; to be read only."""
    import tiny_flux

    home = tmp_path_factory.mktemp("home")
    tiny_flux.ensure(home / "models")
    return home


@pytest.fixture(scope="module", autouse=True)
def _loggers() -> Iterator[None]:
    """Take back where a command that ran in this process sent the package's log: that stderr is closed behind it."""
    found = [logging.getLogger(name) for name in ("ryla_nodes", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in found]
    yield
    for logger, (handlers, propagate, level) in zip(found, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
