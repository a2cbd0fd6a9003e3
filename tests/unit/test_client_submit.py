"""Submitting is safe: whatever happens to the request, the job runs once."""

from __future__ import annotations

import asyncio
import collections
import os

from ryla_nodes.client import AsyncClient, Limits, Result, State, from_graph
from unit.fake_engine import FakeEngine, graph

COUNT = int(os.environ.get("RYLA_TEST_SUBMITS", "100"))
"""A thousand take 35 s: RYLA_TEST_SUBMITS=1000."""

LIMITS = Limits(connect=5, answer=5, submit=0.4, resolve_span=0.8, miss_span=0.3, patience=5)


def test_every_broken_submit_runs_its_job_once() -> None:
    """A fifth each: lost on the way, taken and never answered, taken and the connection reset, taken behind a proxy
    that answers 502, and taken only after the runner has given the request up.
    """
    kinds = ("submit lost", "submit unanswered", "submit reset", "submit 502", "submit late")

    async def scenario(engine: FakeEngine) -> list[Result]:
        async with AsyncClient(engine.url, limits=LIMITS) as client:
            gate = asyncio.Semaphore(20)

            async def one(index: int) -> Result:
                prompt = from_graph(graph(prefix=kinds[index % len(kinds)]), ["3"])
                async with gate:
                    return await client.wait(client.start(prompt, timeout=60))

            return await asyncio.gather(*(one(index) for index in range(COUNT)))

    with FakeEngine("by prefix", seconds=0.0, settle=0.5) as engine:
        results = asyncio.run(scenario(engine))
    assert [result.state for result in results] == [State.SUCCEEDED] * len(results)
    runs = collections.Counter(engine.executions)
    assert len(runs) == len(results), "lost"
    assert set(runs.values()) == {1}, "duplicates"
    assert {result.prompt_id for result in results} == set(runs)
    assert all(result.pictures[0].data.count(result.prompt_id.encode()) == 1 for result in results)
    posts = collections.Counter(engine.posts)
    assert sum(count > 1 for count in posts.values()) >= len(results) // len(kinds)  # the lost ones were posted again
