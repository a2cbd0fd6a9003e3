"""``GatewayClient`` at gateways that let in few: tokens, and no more jobs than so many at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway.served import options_of, served
from ryla_nodes.client import Client, GatewayClient, Limits, State
from ryla_nodes.errors import RylaError
from ryla_nodes.gateway.options import Token
from ryla_nodes.gateway.security import digest
from unit.fake_engine import FakeEngine

QUICK = Limits(patience=0.3, gone_after=0.6)


def _code(client: Client | GatewayClient, timeout: float = 30.0) -> RylaError:
    with pytest.raises(RylaError) as caught:
        client.run("paint", {"prompt": "x"}, timeout=timeout)
    return caught.value


def test_the_token(engine: FakeEngine, tmp_path: Path) -> None:
    tokens = (Token("anna", digest("secret")),)
    with served(options_of(tmp_path, engine.url, tokens=tokens)) as gateway:
        with GatewayClient(gateway.url.replace("//", "//:wrong@")) as client:
            error = _code(client)
        assert error.code == "unauthorized" and ":TOKEN@" in error.hint and "wrong" not in str(error)
        with GatewayClient(gateway.url.replace("//", "//:secret@")) as client:
            assert client.run("paint", {"prompt": "x"}).ok
        # An engine's client is told what it met, even where it has no login.
        with Client(gateway.url, limits=QUICK, settings=gateway.options.settings) as other:
            assert _code(other).code == "not_comfyui"


def test_429_is_waited_for_until_the_deadline(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seconds = 1.0
    with served(options_of(tmp_path, engine.url, per_token=1)) as gateway, GatewayClient(gateway.url) as client:
        results = list(client.map("paint", [{"prompt": str(n)} for n in range(3)]))
        assert [result.state for result in results] == [State.SUCCEEDED] * 3
        engine.seconds = 5.0
        first = client.submit("paint", {"prompt": "long"})
        error = _code(client, timeout=0.8)
        assert error.code == "timed_out" and "not taken" in error.message
        client.cancel(first)
