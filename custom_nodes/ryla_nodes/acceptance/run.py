"""The course of an acceptance run: for each workflow its samples, five at once, a restart, and the LoRA on and off."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import RylaError
from ..workflows.workflow import Workflow
from .bench import Bench, changed
from .journal import Journal
from .measure import GONE, Stopwatch
from .options import AT_ONCE, Options, needs_lora, needs_photo

MOST_DEATHS = 3
_MISSING = 3
"""The exit status of errors that say what is not there."""

OnStep = Callable[[str, "dict[str, Any] | None"], None]
"""Called with what begins, and with its line when it is done."""


class Run:
    """One acceptance run over a journal that remembers what is measured.

    Args:
        on_step: told of every step, also of those that an earlier run has done.
    """

    def __init__(self, options: Options, bench: Bench, journal: Journal, on_step: OnStep) -> None:
        self._options, self._bench, self._journal, self._tell = options, bench, journal, on_step
        self._watch = Stopwatch(bench, options.out, options.timeout)
        self._deaths = 0
        self._loaded = ("", 0)

    def run(self) -> None:
        """Measure what is not measured yet.

        Raises:
            RylaError: the engine is gone and is not ours to start, or died too often; ``cancelled``. What is measured
                stays so: the same command goes on.
        """
        for workflow in self._options.workflows:
            for key, work in self._work(workflow):
                line = self._known(key)
                if line is None:
                    self._tell(key, None)
                    line = self._journal.add(key, self._measured(key, work))
                self._tell(key, line)
                if key == f"sample/{workflow.name}/1" and blocked(line):
                    break

    def _known(self, key: str) -> dict[str, Any] | None:
        """What is measured already; what was missing then may be there now."""
        line = self._journal.lines.get(key)
        return line if line is not None and self._journal.done(key) and blocked(line) is None else None

    def _work(self, workflow: Workflow) -> Iterator[tuple[str, Callable[[], Mapping[str, Any]]]]:
        name = workflow.name
        for number in range(1, self._options.samples + 1):
            yield f"sample/{name}/{number}", lambda number=number: self._sample(workflow, number)  # type: ignore[misc]
        yield f"at_once/{name}", lambda: self._at_once(workflow)
        if needs_lora(workflow):
            yield f"lora_off/{name}", lambda: self._lora_off(workflow)
        if self._bench.ours:
            yield f"restart/{name}", lambda: self._restart(workflow)

    def _measured(self, key: str, work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The measurement; an engine of ours that died is started again, and its death is told.

        Raises:
            RylaError: as ``run``.
        """
        began = time.monotonic()
        try:
            return work()
        except RylaError as error:
            if error.code not in GONE or not self._bench.ours:
                if error.code in (*GONE, "cancelled"):
                    first = "Run" if error.code == "cancelled" else "Start the engine again, then run"
                    error.hint = f"{first} the same command: what is measured stays measured."
                raise
            self._deaths += 1
            if self._deaths > MOST_DEATHS:
                error.message = f"The engine died {self._deaths} times in this run, now during {key}: {error.message}"
                raise
            self._bench.restart()
            seconds = round(time.monotonic() - began, 3)
            return {"ok": False, "seconds": seconds, "died": True, "error": error.as_dict(), "face_similarity": None}

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _sample(self, workflow: Workflow, number: int) -> Mapping[str, Any]:
        self._bench.begin()  # An engine's start is not the sample's time.
        # The first after a start loads the models: it is no measure of a picture's time.
        state = (workflow.name, self._bench.starts)
        facts: dict[str, Any] = {"first": self._loaded != state}
        if needs_photo(workflow) and self._options.people:
            facts["person"] = self._options.person(number)
        line = self._watch.run(
            workflow, self._options.values(workflow, number), f"{workflow.name}-{number:03}", **facts
        )
        self._loaded = state
        return line

    def _made(self, workflow: Workflow) -> int:
        """The first sample that is a picture, to compare with."""
        numbers = range(1, self._options.samples + 1)
        lines = self._journal.lines
        return next((each for each in numbers if lines[f"sample/{workflow.name}/{each}"]["ok"]), 1)

    def _at_once(self, workflow: Workflow) -> Mapping[str, Any]:
        jobs: list[tuple[dict[str, object], str, dict[str, Any]]] = []
        for number in range(1, AT_ONCE + 1):
            values = self._options.values(workflow, number)
            # Seeds of their own: an engine would give the samples' pictures from its cache.
            values["seed"] = self._options.seed + self._options.samples + number
            jobs.append((values, f"{workflow.name}-at-once-{number}", {}))
        lines = self._watch.together(workflow, jobs)
        return {"ok": all(line["ok"] for line in lines), "jobs": lines, "wall": lines[0]["wall"]}

    def _lora_off(self, workflow: Workflow) -> Mapping[str, Any]:
        """A sample's picture once more, with nothing of the LoRA but its trigger word."""
        number = self._made(workflow)
        values = {**self._options.values(workflow, number), "lora_strength": 0}
        return self._watch.run(workflow, values, f"{workflow.name}-lora-off", sample=number)

    def _restart(self, workflow: Workflow) -> Mapping[str, Any]:
        """Start the engine anew, with downloads switched off, and make a sample's picture again."""
        number = self._made(workflow)
        before = self._bench.models()
        began = time.monotonic()
        ready = self._bench.restart(offline=True)
        values = self._options.values(workflow, number)
        line = self._watch.run(workflow, values, f"{workflow.name}-restarted", sample=number)
        cold = time.monotonic() - began
        self._loaded = (workflow.name, self._bench.starts)
        downloaded = changed(before, self._bench.models())
        return {**line, "cold": round(cold, 3), "ready": round(ready, 3), "downloaded": downloaded}


def blocked(line: Mapping[str, Any] | None) -> RylaError | None:
    """What is missing for a workflow as its first sample's line tells; None when it ran, or failed otherwise.

    A LoRA that is not there is no such thing: that LoRAs load is one of the figures.
    """
    told = line.get("error") if line else None
    if not told or told["code"].startswith("lora_"):
        return None
    error = RylaError.registered(told["code"], "engine_error", told["message"], told["hint"], {})
    return error if error.entry.exit_status == _MISSING else None
