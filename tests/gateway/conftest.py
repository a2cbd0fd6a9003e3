"""A gateway before one fake engine, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway.served import Served, options_of, served
from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine(make=jpeg, seconds=0.02) as fake:
        yield fake


@pytest.fixture(autouse=True)
def well(engine: FakeEngine) -> Iterator[None]:
    """Each test begins with an engine without faults."""
    engine.faults.clear()
    engine.seconds = 0.02
    yield


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(options_of(tmp_path_factory.mktemp("gateway"), engine.url)) as one:
        yield one
