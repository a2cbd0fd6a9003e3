"""Fixtures for every part of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RYLA_HOME whose ``models/`` holds the small Flux, made once a session; to be read only."""
    import tiny_flux

    home = tmp_path_factory.mktemp("home")
    tiny_flux.ensure(home / "models")
    return home
