"""What can be asked of an engine without a job: who it is, its nodes, its models."""

from __future__ import annotations

import base64

import pytest
from ryla_nodes.client.address import Address
from ryla_nodes.client.api import EngineProbe
from ryla_nodes.client.transport import CallFailed
from ryla_nodes.errors import RylaError
from unit.fake_engine import FakeEngine


def test_a_probe_asks_without_asyncio() -> None:
    with FakeEngine() as engine, EngineProbe(engine.url) as probe:
        assert (probe.server, probe.info().version, probe.info().device) == (engine.url, "0.33.0", "fake")
        assert probe.models("loras") == ["anna.safetensors", "people/ben.safetensors"]
        assert set(probe.object_info(["SaveImage", "EmptyImage"])) == {"SaveImage", "EmptyImage"}
        assert {"ImageInvert"} < set(probe.object_info())
        assert probe.read("/queue") == {"queue_running": [], "queue_pending": []}


def test_what_an_engine_does_not_tell_is_an_error_that_names_it() -> None:
    with FakeEngine() as engine, EngineProbe(engine.url) as probe:
        with pytest.raises(RylaError, match="did not say which vae it has: HTTP 404") as caught:
            probe.models("vae")
        assert caught.value.code == "engine_error" and engine.url in caught.value.message
        with pytest.raises(CallFailed, match="HTTP 404"):
            probe.read("/nothing")
    with EngineProbe(engine.url) as probe, pytest.raises(RylaError) as caught:
        probe.info()
    assert caught.value.code == "engine_unreachable"


@pytest.mark.parametrize(
    ("login", "header"),
    [(":t0ken", "Bearer t0ken"), ("me:t0ken", f"Basic {base64.b64encode(b'me:t0ken').decode()}")],
)
def test_a_login_of_the_address_is_sent_and_never_shown(login: str, header: str) -> None:
    with FakeEngine() as engine:
        with EngineProbe(engine.url.replace("//", f"//{login}@")) as probe:
            told = f"{probe.info()} {probe.server}"
        assert engine.logins == {header}
        engine.faults.add("login")
        with EngineProbe(engine.url.replace("//", f"//{login}@")) as probe, pytest.raises(RylaError) as caught:
            probe.info()
    assert caught.value.code == "engine_forbidden"
    assert "t0ken" not in told + str(caught.value) + str(caught.value.as_dict()) + repr(Address.parse(f"h{login}@h"))


@pytest.mark.parametrize(
    "url", ["ftp://host", "http://", "http://host:port", "http://host?x=1", "http://:t0ken@host:x"]
)
def test_what_is_no_address_is_refused_without_its_login(url: str) -> None:
    with pytest.raises(RylaError) as caught, EngineProbe(url):
        pass
    assert caught.value.code == "invalid_server" and "t0ken" not in str(caught.value)
