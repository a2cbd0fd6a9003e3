"""The simulation behind docs/scale.md against what queueing theory knows, and its document against its tables."""

from __future__ import annotations

import importlib.util
import math
import random
import re
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("simpy", reason="SimPy is not installed")
REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", REPO / "benchmarks" / "scale.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["scale"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_waits_as_theory_says(scale: ModuleType, load: float) -> None:
    """Pollaczek and Khinchine: the mean wait is rho/(1-rho) x E[S] for exponential times, half of it for equal ones."""
    for service, share in ((lambda rng: rng.expovariate(1.0), 1.0), (lambda rng: 1.0, 0.5)):
        found = statistics.fmean(scale.waits(1, load, service, 60_000))
        assert found == pytest.approx(share * load / (1 - load), rel=0.12)


def test_several_servers_wait_as_erlang_says(scale: ModuleType) -> None:
    servers, offered = 4, 3.2
    powers = [offered**number / math.factorial(number) for number in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    chance = last / (sum(powers) + last)
    found = scale.waits(servers, offered, lambda rng: rng.expovariate(1.0), 60_000)
    assert sum(wait > 0 for wait in found) / len(found) == pytest.approx(chance, rel=0.08)
    assert statistics.fmean(found) == pytest.approx(chance / (servers - offered), rel=0.15)


@pytest.mark.parametrize("window", [60.0, 300.0])
def test_a_container_is_cold_when_nobody_came_within_its_window(scale: ModuleType, window: float) -> None:
    rate = 10 / 3600
    cloud = scale.serverless(rate, 0.0, window, 1, 20_000)
    assert cloud.starts / len(cloud.taken) == pytest.approx(math.exp(-rate * window), rel=0.05)


def test_what_is_billed_is_start_work_and_window(scale: ModuleType) -> None:
    """Far between, each picture pays for a start, its own time and a window."""
    cloud = scale.serverless(1 / 100_000, 40.0, 60.0, 1, 500)
    assert cloud.billed / 500 == pytest.approx(40 + scale.MEAN + 60, rel=0.03)
    assert min(cloud.taken) == pytest.approx(40 + min(seconds for _, seconds in scale.MIX))


def test_every_job_of_a_burst_ends_once(scale: ModuleType) -> None:
    assert scale.bursts((4,), 200).splitlines()[-1].startswith("| 4 | 44 s |")


def test_the_mix_is_what_it_says(scale: ModuleType) -> None:
    rng = random.Random(1)
    drawn = [scale.mixed(rng) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(scale.MEAN, rel=0.02)
    assert sum(share for share, _ in scale.MIX) == pytest.approx(1)


def test_the_document_has_the_tables_of_the_script(scale: ModuleType) -> None:
    text = (REPO / "docs" / "scale.md").read_text()
    for each in (scale.costs(4.54), scale.parity(4.54), scale.bursts((1, 4, 10, 50), 500)):
        assert each in text
    figures = (REPO / "docs" / "benchmarks.md").read_text()
    for seconds in [*scale.MODES.values(), *scale.COLD.values()]:
        assert re.search(rf"\b{seconds}\b", figures), seconds
