"""A record is this submit's, an engine that is gone is lost, and what only helps does not decide."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from ryla_nodes.client import AsyncClient, Client, Limits, Result, State, Submission, from_graph
from ryla_nodes.client.limits import Lifetime, Outage
from ryla_nodes.client.protocol import NONCE, HistoryAnswer, QueueView, Sleep, parse_history
from ryla_nodes.client.state_machine import JobMachine
from ryla_nodes.errors import RylaError
from unit.fake_engine import FakeEngine, graph
from unit.test_client_faults import FAST, _until
from unit.test_client_state_machine import GRAPH, LIMITS, PROMPT_ID, SUBJECT, history

Answering = Callable[[web.Request], web.Response | None]


class Front(FakeEngine):
    """A fake engine behind a proxy, which answers some requests itself."""

    def __init__(self, *faults: str, answers: Answering = lambda _: None, **options: Any) -> None:
        self.answers = answers
        super().__init__(*faults, **options)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        answer = self.answers(request)
        return answer if answer is not None else await super()._middleware(request, handler)


def _prompt(color: int = 0) -> Any:
    return from_graph(graph(color=color), ["3"])


def _record(nonce: str, node: str = "2") -> Any:
    body = history()
    body[PROMPT_ID]["prompt"][3] = {NONCE: nonce} if nonce else {}
    body[PROMPT_ID]["outputs"] = {node: body[PROMPT_ID]["outputs"]["2"]}
    return parse_history(body, PROMPT_ID)


# --- whose record it is -----------------------------------------------------------------------------------------------


def test_an_id_that_was_used_before_gives_the_picture_of_its_own_job() -> None:
    prompt_id = str(uuid.uuid4())
    with FakeEngine(seconds=0.3) as engine, Client(engine.url, limits=FAST) as client:
        for color in (255, 77):
            result = client.wait(client.submit(_prompt(color), prompt_id=prompt_id))
            assert result.ok
            assert engine.graphs[-1]["1"]["inputs"]["color"] == color and len(engine.executions) == (color == 77) + 1


def test_an_id_that_waits_or_runs_is_refused_before_the_post() -> None:
    prompt_id = str(uuid.uuid4())
    with FakeEngine(seconds=5) as engine, Client(engine.url, limits=FAST) as client:
        first = client.submit(_prompt(1), prompt_id=prompt_id)
        with pytest.raises(RylaError) as refusal:
            client.submit(_prompt(2), prompt_id=prompt_id)
        assert refusal.value.code == "prompt_id_in_use" and engine.posts == [prompt_id]
        client.cancel(first)


def test_a_record_of_another_submit_is_no_record() -> None:
    subject = type(SUBJECT)(PROMPT_ID, "http://engine", GRAPH, SUBJECT.outputs, "mine")
    for nonce, ends in (("theirs", False), ("mine", True), ("", True)):
        machine = JobMachine(subject, Lifetime(300), now=0, limits=LIMITS, attach=True)
        machine.next(0)
        machine.feed(QueueView((), ()), 0)
        machine.feed(HistoryAnswer(_record(nonce)), 0)
        assert (machine.outcome is not None) is ends, nonce


def test_the_record_from_before_is_not_taken_for_an_engine_that_keeps_no_nonces() -> None:
    before = _record("")
    machine = JobMachine(SUBJECT, Lifetime(300), now=0, limits=LIMITS, attach=True, earlier=before)
    machine.next(0)
    machine.feed(QueueView((PROMPT_ID,), ()), 0)
    machine.feed(HistoryAnswer(before), 1)
    assert machine.outcome is None and isinstance(machine.next(1), Sleep)


def test_a_later_process_takes_up_only_its_own_submit() -> None:
    submissions: list[Submission] = []
    with FakeEngine(seconds=0.01) as engine, Client(engine.url, limits=FAST) as client:
        assert client.wait(client.submit(_prompt(), on_submit=submissions.append)).ok
        (submission,) = submissions
        assert client.wait(client.attach(_prompt(), submission)).ok
        stranger = Submission(submission.server, submission.prompt_id, "somebody else's")
        assert client.wait(client.attach(_prompt(), stranger)).state is State.LOST


# --- an engine that is gone -------------------------------------------------------------------------------------------


def _status(status: int, text: str = "") -> Callable[[web.Request], web.Response]:
    return lambda _: web.Response(status=status, text=text, content_type="text/html")


@pytest.mark.parametrize(
    "says",
    [_status(502), _status(503), _status(404), _status(530), _status(200, "<html>Pod stopped</html>")],
    ids=["502", "503", "404", "530", "page"],
)
def test_an_engine_that_is_gone_behind_a_proxy_is_lost(says: Callable[[web.Request], web.Response]) -> None:
    with Front(seconds=60) as engine, Client(engine.url, limits=FAST) as client:
        job = client.submit(_prompt(), timeout=60)
        _until(lambda: bool(engine.running))
        began = time.monotonic()
        engine.answers = says
        engine.drop_sockets()
        result = client.wait(job)
        assert result.state is State.LOST and result.error is not None and result.error.code == "server_gone"
        assert time.monotonic() - began < FAST.gone_after + 5


def test_a_job_whose_engine_is_gone_behind_a_proxy_goes_on_elsewhere() -> None:
    with Front(seconds=60) as gone, FakeEngine(seconds=0.01) as other:
        with Client(gone.url, other.url, limits=FAST) as client:
            job = client.start(_prompt(), timeout=60, wait=5, reruns=1)
            _until(lambda: bool(gone.running))
            gone.answers = _status(502)
            gone.drop_sockets()
            result = client.wait(job)
        assert result.ok and result.server == other.url


def test_an_engine_that_goes_before_its_picture_is_fetched_is_lost_and_does_not_lack_the_file() -> None:
    gone: list[bool] = []

    def answers(request: web.Request) -> web.Response | None:
        if request.path == "/view":
            gone.append(True)
        return web.Response(status=404) if gone else None

    with Front(seconds=0.05, answers=answers) as engine, Client(engine.url, limits=FAST) as client:
        result = client.wait(client.submit(_prompt(), timeout=60))
    assert result.state is State.LOST and result.error is not None and result.error.code == "server_gone"


def test_an_engine_that_is_slow_is_not_gone_until_it_has_been_silent_for_long() -> None:
    limits = Limits(gone_after=30, silent_after=300)
    outage = Outage(limits)
    outage.over(0)
    for now in range(1, 300):
        outage.note(False, now)
        assert outage.lasted(now) is None
    outage.note(True, 300)
    assert outage.lasted(300) is None, "one 502 of a busy engine"
    outage.note(False, 301)
    assert outage.lasted(301) == 300
    outage.over(302)
    outage.note(True, 303)
    assert outage.lasted(332) is None and outage.lasted(333) == 30


# --- what only helps --------------------------------------------------------------------------------------------------


def _only(path: str, answer: Callable[[], web.Response], times: int = 10**6) -> Answering:
    left = [times]

    def answers(request: web.Request) -> web.Response | None:
        if not (request.method == "GET" and request.path.startswith(path)) or not left[0]:
            return None
        left[0] -= 1
        return answer()

    return answers


HELPFUL = {
    "only all nodes at once": _only("/object_info/", lambda: web.Response(status=404)),
    "no node list": _only("/object_info", lambda: web.Response(status=404)),
    "one 502 at the node list": _only("/object_info", lambda: web.Response(status=502), 1),
    "a page for the node list": _only("/object_info", lambda: web.Response(text="<html>", content_type="text/html")),
    "node list of another shape": _only("/object_info", lambda: web.json_response({"FakePaint": [1]})),
    "one 502 at system_stats": _only("/system_stats", lambda: web.Response(status=502), 1),
    "no system_stats": _only("/system_stats", lambda: web.Response(status=404)),
    "system_stats of text": _only("/system_stats", lambda: web.Response(text="ok")),
    "queue length of text": _only("/prompt", lambda: web.Response(text="ok")),
    "no queue length": _only("/prompt", lambda: web.Response(status=405)),
}


@pytest.mark.parametrize("what", HELPFUL)
@pytest.mark.parametrize("count", [1, 2])
def test_a_job_runs_without_what_only_helps(what: str, count: int) -> None:
    make = functools.partial(Front, answers=HELPFUL[what], seconds=0.01)
    with make() as one, make() as other, Client(*[one.url, other.url][:count], limits=FAST) as client:
        result: Result = client.run(_prompt(), timeout=20)
    unchecked = what in ("no node list", "a page for the node list", "node list of another shape")
    assert result.ok and bool(result.warnings) is unchecked
    assert all("was not checked" in warning for warning in result.warnings)


# --- graphs -----------------------------------------------------------------------------------------------------------

GOOD = graph()
GRAPHS: dict[str, tuple[Any, str]] = {
    "editor": ({"nodes": [], "links": [], "version": 0.4}, "editor's format"),
    "wrapped": ({"prompt": GOOD, "client_id": "x"}, '"prompt" is not a node'),
    "a number at the top": ({**GOOD, "version": 0.4}, '"version" is not a node'),
    "a number as an id": ({1: GOOD["1"], "3": GOOD["3"]}, "node id 1"),
    "NaN": ({**GOOD, "1": {**GOOD["1"], "is_changed": [float("nan")]}}, "NaN or infinity"),
    "infinity": ({**GOOD, "1": {"class_type": "X", "inputs": {"cfg": float("-inf")}}}, "NaN or infinity"),
    "half an emoji": ({**GOOD, "1": {"class_type": "X", "inputs": {"text": "a\ud83d"}}}, "half of a character"),
    "bytes": ({**GOOD, "1": {"class_type": "X", "inputs": {"text": b"a"}}}, "bytes"),
    "a list": ([1], "not an object of nodes"),
    "nothing": ({}, "not an object of nodes"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_no_graph_is_told_with_a_code(name: str) -> None:
    nodes, says = GRAPHS[name]
    with pytest.raises(RylaError, match=says) as failure:
        from_graph(nodes, ["3"])
    assert failure.value.code == "invalid_graph"


def test_outputs_that_are_not_there_and_none_at_all_are_told() -> None:
    with pytest.raises(RylaError, match="no node '99'") as failure:
        from_graph(GOOD, ["99"])
    assert failure.value.code == "invalid_graph"
    with FakeEngine() as engine, Client(engine.url) as client:
        result = client.wait(client.start(from_graph(GOOD, []), timeout=5))
        assert result.error is not None and result.error.code == "invalid_graph" and not engine.posts


@pytest.mark.parametrize("url", ["http://a b", "http://a\nb", "http://[::1", "http://\u2028", "http://a:99999"])
def test_an_address_that_no_library_takes_is_told(url: str) -> None:
    with pytest.raises(RylaError) as failure:
        AsyncClient(url)
    assert failure.value.code == "invalid_server"
