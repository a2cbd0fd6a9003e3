"""Fixtures of the tests that call the embedded engine without its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import small_models
import tiny_flux
import torch
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.speed import compiler, machine
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


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What was compiled, by a backend that takes a moment; nothing is refused."""
    made: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward  # type: ignore[no-any-return]

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend=backend))
    monkeypatch.setattr(machine, "refusal", lambda mode, device: None)
    compiler._compiled.cache_clear()
    torch._dynamo.reset()
    yield made
    compiler._compiled.cache_clear()
    torch._dynamo.reset()
