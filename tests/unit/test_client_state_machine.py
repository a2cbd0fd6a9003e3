"""The job state machine against a simulated engine and network: any interleaving, loss, repetition and reordering."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ryla_nodes.client.failures import Subject
from ryla_nodes.client.limits import Lifetime, Limits
from ryla_nodes.client.protocol import (
    Accepted,
    Answer,
    Ask,
    CancelAnswer,
    Connection,
    Event,
    HistoryAnswer,
    LogAnswer,
    LookFailed,
    NotSent,
    Outcome,
    QueueView,
    Signal,
    Sleep,
    State,
    Unclear,
    parse_event,
    parse_history,
)
from ryla_nodes.client.state_machine import JobMachine
from ryla_nodes.workflows.workflow import Output

GRAPH: dict[str, dict[str, Any]] = {
    "1": {"class_type": "EmptyImage", "inputs": {}, "_meta": {"title": "Canvas"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Result"}},
}
PROMPT_ID = str(uuid.UUID(int=7))
SUBJECT = Subject(PROMPT_ID, "http://engine", GRAPH, (Output("Result", "2", "image"),))
LIMITS = Limits()
DEADLINE = 300.0
LONGEST_CALL = 10.0


def history(kind: str = "success", node_id: str = "1") -> dict[str, Any]:
    """The body of /history/{id} of a job that ended so."""
    messages: list[Any] = [["execution_start", {"timestamp": 1000}]]
    if kind == "success":
        messages.append(["execution_success", {"timestamp": 1500}])
    elif kind == "error":
        messages.append(["execution_error", {"node_id": node_id, "exception_type": "ValueError", "timestamp": 1500}])
    else:
        messages.append(["execution_interrupted", {"node_id": node_id, "timestamp": 1500}])
    outputs = {"2": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}} if kind == "success" else {}
    status = {"status_str": "success" if kind == "success" else "error", "messages": messages}
    return {PROMPT_ID: {"prompt": [1, PROMPT_ID, GRAPH, {}, ["2"]], "outputs": outputs, "status": status}}


@dataclass
class Engine:
    """The truth: one job on one engine whose clock is the simulation's."""

    starts_after: float
    runs_for: float
    ends: str
    interruptible: bool
    restarts_at: float | None
    legacy: bool
    accepted_at: list[float] = field(default_factory=list)
    removed_at: float | None = None
    interrupted_at: float | None = None

    def known(self, now: float) -> bool:
        if not self.accepted_at or self.removed_at is not None:
            return False
        return self.restarts_at is None or not self.accepted_at[0] < self.restarts_at <= now

    def started(self, now: float) -> bool:
        return bool(self.accepted_at) and now >= self.accepted_at[0] + self.starts_after

    def end(self) -> float:
        natural = self.accepted_at[0] + self.starts_after + self.runs_for
        return natural if self.interrupted_at is None else min(natural, self.interrupted_at)

    def ended_as(self, now: float) -> str | None:
        """How the job ended by ``now``; None while the engine has not finished it, or does not know it."""
        if not self.known(now) or not self.started(now) or now < self.end():
            return None
        cut_short = self.interrupted_at is not None and self.interrupted_at <= self.end()
        return "interrupted" if cut_short else self.ends

    def active(self, now: float) -> bool:
        return self.known(now) and self.ended_as(now) is None

    def queue(self, now: float) -> QueueView:
        if not self.active(now):
            return QueueView((), ())
        return QueueView((PROMPT_ID,), ()) if self.started(now) else QueueView(("other",), (PROMPT_ID,))

    def history(self, now: float) -> HistoryAnswer:
        ended = self.ended_as(now)
        return HistoryAnswer(parse_history(history(ended) if ended else {}, PROMPT_ID))

    def dequeue(self, now: float) -> None:
        if self.active(now) and not self.started(now):
            self.removed_at = now

    def interrupt(self, now: float) -> None:
        if self.active(now) and self.started(now) and self.interruptible and self.interrupted_at is None:
            self.interrupted_at = now + 0.05

    def carry_out(self, action: Ask, now: float) -> Answer:
        if action is Ask.SUBMIT:
            self.accepted_at.append(now)
            return Accepted({})
        if action is Ask.QUEUE:
            return self.queue(now)
        if action is Ask.HISTORY:
            return self.history(now)
        if action is Ask.LOG:
            return LogAnswer(False)
        if action is Ask.CANCEL:
            if self.legacy:
                return CancelAnswer.UNSUPPORTED
            self.dequeue(now)
            self.interrupt(now)
        elif action is Ask.DEQUEUE:
            self.dequeue(now)
        else:
            self.interrupt(now)
        return CancelAnswer.DONE


FAULTS = ("ok", "ok", "ok", "refused", "lost request", "lost answer")


def faulty(engine: Engine, action: Ask, fault: str, now: float) -> Answer:
    """Carry ``action`` out over a network that fails so."""
    if fault in ("ok", "lost answer"):
        answer = engine.carry_out(action, now)
        if fault == "ok":
            return answer
    if action is Ask.SUBMIT:
        return NotSent("refused") if fault == "refused" else Unclear("no answer")
    if action in (Ask.QUEUE, Ask.HISTORY):
        return LookFailed("no answer", absent=fault == "refused")
    return LogAnswer(False) if action is Ask.LOG else CancelAnswer.FAILED


@st.composite
def engines(draw: st.DrawFn) -> Engine:
    return Engine(
        starts_after=draw(st.sampled_from([0.0, 0.3, 5.0, 500.0])),
        runs_for=draw(st.sampled_from([0.0, 0.4, 8.0, 500.0])),
        ends=draw(st.sampled_from(["success", "success", "error", "interrupted"])),
        interruptible=draw(st.booleans()),
        restarts_at=draw(st.none() | st.floats(0, 20)),
        legacy=draw(st.booleans()),
    )


KINDS = (
    "status", "execution_start", "execution_cached", "executing", "progress", "progress_state", "executed",
    "execution_success", "execution_error", "execution_interrupted",
)  # fmt: skip


def event(kind: str, **data: Any) -> Event:
    """What a websocket message says."""
    parsed = parse_event(json.dumps({"type": kind, "data": data}))
    assert parsed is not None
    return parsed


def noise(engine: Engine, now: float) -> list[Signal]:
    """Signals at any time: out of order, late, twice, of somebody else's job; of ours once the engine has it."""
    mine = [event(kind, prompt_id=PROMPT_ID, node="1", value=1, max=4) for kind in KINDS if kind != "status"]
    other = [event(kind, prompt_id="other", node=None) for kind in KINDS]
    mine.append(event("executing", node=None, prompt_id=PROMPT_ID))
    told = mine if engine.accepted_at else []
    return [*told, *other, Connection(True), Connection(False)]


@dataclass
class Run:
    outcome: Outcome
    ended_at: float
    submits: int


def simulate(engine: Engine, data: st.DataObject, *, faults: int, cancel_at: float | None, attach: bool = False) -> Run:
    """Drive a machine to its end: ``faults`` calls go wrong, then the network is well."""
    lifetime, now, submits = Lifetime(DEADLINE, DEADLINE), 0.0, 0
    machine = JobMachine(SUBJECT, lifetime, now=now, limits=LIMITS, attach=attach)
    for _ in range(20_000):
        if cancel_at is not None and now >= cancel_at:
            lifetime.cancelled = True
        action = machine.next(now)
        if isinstance(action, Outcome):
            assert machine.next(now + 1000) == action
            return Run(action, now, submits)
        if faults > 0 and data.draw(st.booleans()):
            signals = noise(engine, now)
            machine.feed(signals[data.draw(st.integers(0, len(signals) - 1))], now)
        if isinstance(action, Sleep):
            assert action.until >= now
            wake = data.draw(st.floats(0, 1)) if faults > 0 else 1.0
            now += max(0.001, (action.until - now) * wake)
            continue
        submits += action is Ask.SUBMIT
        fault = data.draw(st.sampled_from(FAULTS)) if faults > 0 else "ok"
        faults -= 1
        took = data.draw(st.sampled_from([0.003, 0.2, LONGEST_CALL])) if faults > 0 else 0.003
        answer = faulty(engine, action, fault, now + took / 2)
        now += took
        machine.feed(answer, now)
    raise AssertionError("the machine never ends")


def machine_for(expected: float | None = None) -> JobMachine:
    return JobMachine(SUBJECT, Lifetime(DEADLINE, DEADLINE), now=0.0, limits=LIMITS, expected=expected)


quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(engine=engines(), data=st.data(), faults=st.integers(0, 30), cancel_at=st.none() | st.floats(0, 30))
def test_whatever_happens_the_outcome_is_true_and_in_time(
    engine: Engine, data: st.DataObject, faults: int, cancel_at: float | None
) -> None:
    run = simulate(engine, data, faults=faults, cancel_at=cancel_at)
    outcome, now = run.outcome, run.ended_at
    assert now <= DEADLINE + LIMITS.cancel_grace + LONGEST_CALL
    assert (outcome.error is None) == (outcome.state is State.SUCCEEDED)
    restarted = engine.restarts_at is not None and engine.restarts_at <= now
    if not restarted:
        # A request is taken or not by the time that its failure shows, so nothing is ever queued twice.
        assert len(engine.accepted_at) <= 1
    if outcome.state is State.SUCCEEDED:
        assert engine.ends == "success" and engine.end() <= now and engine.interrupted_at is None
    if outcome.state is State.LOST and outcome.verified:
        assert not engine.known(now)
    if outcome.never_started:
        assert not engine.started(now) or not engine.known(now)
    if outcome.state in (State.CANCELLED, State.TIMED_OUT) and outcome.verified:
        assert not engine.active(now)
    if outcome.state is State.CANCELLED:
        assert cancel_at is not None and now <= cancel_at + LONGEST_CALL * 2 + LIMITS.cancel_grace


@quick
@given(engine=engines(), data=st.data(), faults=st.integers(0, 25), attach=st.booleans())
def test_a_job_that_ends_in_time_is_reported_as_it_ended(
    engine: Engine, data: st.DataObject, faults: int, attach: bool
) -> None:
    engine.restarts_at = None
    engine.starts_after, engine.runs_for = min(engine.starts_after, 5.0), min(engine.runs_for, 8.0)
    if attach:
        engine.accepted_at.append(0.0)
    run = simulate(engine, data, faults=faults, cancel_at=None, attach=attach)
    if run.outcome.error is not None and run.outcome.error.code in ("engine_unreachable", "server_gone", "timed_out"):
        assert faults > 0  # the network was bad for longer than the limits
        return
    wanted = {"success": State.SUCCEEDED, "error": State.FAILED, "interrupted": State.FAILED}[engine.ends]
    assert run.outcome.state is wanted
    assert run.submits == 0 or not attach


@quick
@given(data=st.data())
def test_nonsense_in_any_order_gives_one_outcome_and_no_blind_submit(data: st.DataObject) -> None:
    """Answers that fit no question, in any order: the prompt is posted again only after two spaced misses."""
    machine, now, misses, unclear = machine_for(), 0.0, [], False
    answers: list[Any] = [
        Unclear("x"), NotSent("x"), QueueView((), ()), QueueView((PROMPT_ID,), ()),
        QueueView(("other",), (PROMPT_ID,)), HistoryAnswer(None), LookFailed("x"),
        LookFailed("x", absent=True), LogAnswer(False), *CancelAnswer,
        *noise(Engine(0, 0, "", False, None, False), 0.0),
    ]  # fmt: skip
    first: Outcome | None = None
    absent = False
    for _ in range(data.draw(st.integers(1, 120))):
        action = machine.next(now)
        if first is not None:
            assert isinstance(action, Outcome) and action is first
        elif isinstance(action, Outcome):
            first = action
        if action is Ask.SUBMIT:
            assert not unclear or (len(misses) >= 2 and misses[-1] - misses[0] >= LIMITS.resolve_span)
            unclear, misses = True, []
        now += data.draw(st.sampled_from([0.0, 0.01, 0.6, 3.0]))
        answer = data.draw(st.sampled_from(answers))
        if isinstance(answer, NotSent):
            unclear = False
        if isinstance(answer, QueueView):
            absent = answer.count(PROMPT_ID) == 0
            misses = misses if absent else []
        elif isinstance(answer, HistoryAnswer):
            misses = [*misses, now] if absent else misses
            absent = False
        elif isinstance(answer, LookFailed):
            absent = False
        machine.feed(answer, now)


@quick
@given(data=st.data(), late=st.floats(0.0, 60.0))
@example(data=None, late=2.5)
def test_a_submit_that_arrives_after_the_retry_is_taken_out_of_the_queue(data: Any, late: float) -> None:
    """A proxy that holds a request back: both copies get queued, and the one that waits is removed."""
    machine, now = machine_for(), 0.0
    copies: list[float] = []
    removed = 0
    first = True
    while True:
        action = machine.next(now)
        if isinstance(action, Outcome):
            break
        pending = [at for at in copies if at <= now][removed:]
        if isinstance(action, Sleep):
            now = action.until
            continue
        now += 0.01
        if action is Ask.SUBMIT:
            copies.append(now + late if first else now)
            copies.sort()
            answer: Answer = Unclear("timed out") if first else Accepted({})
            first = False
        elif action is Ask.QUEUE:
            answer = QueueView(("other",), (PROMPT_ID,) * len(pending))
        elif action is Ask.DEQUEUE:
            removed += 1
            answer = CancelAnswer.DONE
        elif action is Ask.HISTORY:
            answer = HistoryAnswer(None)
        else:
            answer = LogAnswer(False)
        machine.feed(answer, now)
        if now > 100:
            break
    assert len(copies) - removed == 1


def run_steps(machine: JobMachine, engine: Engine, until: float, now: float = 0.0) -> float:
    """Drive the machine on a well network until the clock says ``until``."""
    while now < until:
        action = machine.next(now)
        if isinstance(action, Outcome):
            return now
        if isinstance(action, Sleep):
            now = min(until, action.until)
            continue
        now += 0.003
        machine.feed(engine.carry_out(action, now), now)
    return now


def test_a_dead_websocket_costs_at_most_a_second() -> None:
    for length in (0.01, 0.5, 3.0, 10.6, 60.0):
        engine = Engine(0.0, length, "success", True, None, False)
        machine = machine_for()
        ended = run_steps(machine, engine, DEADLINE)
        assert machine.outcome is not None and machine.outcome.state is State.SUCCEEDED
        assert ended - engine.end() <= min(1.05, 0.15 + length / 9)


def test_an_expected_end_makes_the_pace_fast_near_it() -> None:
    engine = Engine(0.0, 20.0, "success", True, None, False)
    machine = machine_for(expected=19.8)
    assert run_steps(machine, engine, DEADLINE) - engine.end() <= 0.15


def test_polling_a_long_job_is_frugal() -> None:
    engine = Engine(0.0, 200.0, "success", True, None, False)
    machine, now, calls = machine_for(), 0.0, 0
    machine.feed(Connection(True), 0.0)
    while not isinstance(action := machine.next(now), Outcome):
        if isinstance(action, Sleep):
            now = action.until
            machine.feed(event("status"), now)
            continue
        calls += 1
        machine.feed(engine.carry_out(action, now), now)
    assert calls <= 300  # about one a second, the queue's included


@pytest.mark.parametrize("worker", ["idle queue", "log"])
def test_a_dead_worker_is_told_from_a_long_job(worker: str) -> None:
    machine, now = machine_for(), 0.0
    cancelled = False
    while not isinstance(action := machine.next(now), Outcome):
        if isinstance(action, Sleep):
            now = action.until
            continue
        now += 0.003
        answer: Answer
        if action is Ask.SUBMIT:
            answer = Accepted({})
        elif action is Ask.QUEUE:
            running = () if worker == "idle queue" else ("dead",)
            answer = QueueView(running, () if cancelled else (PROMPT_ID,))
        elif action is Ask.HISTORY:
            answer = HistoryAnswer(None)
        elif action is Ask.LOG:
            answer = LogAnswer(worker == "log")
        else:
            cancelled, answer = True, CancelAnswer.DONE
        machine.feed(answer, now)
    outcome = action
    assert outcome.error is not None and outcome.error.code == "zombie_worker"
    assert outcome.never_started and outcome.verified and now < 40


def test_the_clock_may_jump() -> None:
    """A laptop that sleeps over the deadline: a job that ended meanwhile has succeeded, not timed out."""
    engine = Engine(0.0, 5.0, "success", True, None, False)
    machine = machine_for()
    run_steps(machine, engine, 2.0)
    run_steps(machine, engine, 100_010.0, now=100_000.0)
    assert machine.outcome is not None and machine.outcome.state is State.SUCCEEDED
