"""Fixtures of the tests that call the embedded engine without its server."""

from __future__ import annotations

from typing import Any

import pytest
import small_models
import tiny_flux
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.models.folders import ModelFolders


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedEngine:
    """An engine whose home has the small Flux; the module may write there."""
    home = tmp_path_factory.mktemp("home")
    tiny_flux.ensure(home / "models")
    return EmbeddedEngine(home, ModelFolders({}))


@pytest.fixture(scope="module")
def loaded(engine: EmbeddedEngine) -> tuple[Any, Any, Any]:
    """Its MODEL, CLIP and VAE."""
    return small_models.load(engine.home)
