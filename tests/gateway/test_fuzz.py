"""Whatever is sent, the answer is one that OpenAPI names, and tells nothing of the machine.

``RYLA_TEST_FUZZ`` sets how many requests each endpoint gets.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ryla_nodes
import schemathesis
from gateway.served import Served
from hypothesis import HealthCheck, Phase, settings
from unit.fake_engine import FakeEngine

COUNT = int(os.environ.get("RYLA_TEST_FUZZ", "6"))
SECRETS = ("Traceback", "site-packages", tempfile.gettempdir(), str(Path(ryla_nodes.__file__).parent), 'File "')


def _rss() -> int:
    """Bytes of memory of this process, which the gateway runs in."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(120 + COUNT * 20)
def test_no_request_makes_it_fail_or_tell(gateway: Served, engine: FakeEngine) -> None:
    engine.seconds = 0.0
    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    engine_address = engine.url.removeprefix("http://")
    memory: list[int] = []

    def attempt(operation: Any) -> None:
        @settings(
            max_examples=COUNT,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        )
        @schemathesis_given(operation)
        def run(case: Any) -> None:
            answer = case.call(base_url=gateway.url, timeout=60)
            text = answer.content.decode(errors="replace")
            told = (answer.status_code, case.as_curl_command(), text[:1000])
            assert answer.status_code < 500, told
            for secret in (*SECRETS, engine_address):
                assert secret not in text, told
            if answer.status_code >= 400:
                assert answer.headers["content-type"][0] == "application/problem+json", told
            assert str(answer.status_code) in operation.definition.raw["responses"], told

        run()

    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue  # A stream without an end while its job waits.
        attempt(operation)
        memory.append(_rss())
    assert memory[-1] - memory[0] < 200 * 2**20


def schemathesis_given(operation: Any) -> Any:
    """Cases of an operation, valid and not."""
    from hypothesis import given, strategies
    from schemathesis import GenerationMode

    modes = [operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]
    return given(case=strategies.one_of(modes))
