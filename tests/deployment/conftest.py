"""What a gateway in this process sets up for a whole process is taken back."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _loggers() -> Iterator[None]:
    """The package's log goes to the stderr of the test that set it up, which is closed behind it."""
    found = [logging.getLogger(name) for name in ("ryla_nodes", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in found]
    yield
    for logger, (handlers, propagate, level) in zip(found, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
