"""Running one graph: what has to run, in order, with messages on the way and one outcome at the end."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ....errors import RylaError
from ....workflows.graph import is_link
from ... import embedded
from ...schema import io
from .calls import (
    Blocker,
    Interrupted,
    NodeStates,
    Reporter,
    RunningNode,
    Values,
    blocked_failure,
    call,
    collect,
    is_out_of_memory,
    running,
)
from .graph import Entry, OutputCache, Schedule, signatures
from .jobs import Job, Outcome, Send
from .registry import NodeClass, Registry

log = logging.getLogger(__name__)


class Executor:
    """Runs jobs one after the other and keeps the outputs of the last one's nodes. Nothing that a job does escapes."""

    def __init__(self, registry: Registry, send: Send, unload_models: Callable[[], None], reporter: Reporter) -> None:
        self.registry = registry
        self.send = send
        self.reporter = reporter
        self._unload_models = unload_models
        self.cache = OutputCache(_memory() // 2)

    def run(self, job: Job) -> Outcome:
        """Run ``job`` to its end; whatever it raises, sys.exit() included, is its outcome."""
        try:
            embedded.import_torch()
            import torch

            with torch.inference_mode():
                return _Run(self, job).run()
        except BaseException as error:  # noqa: BLE001 - the worker's thread outlives it
            return self._crashed(job, error)

    def free(self) -> None:
        """Give memory back: forget every kept output, which is where models are held, and unload."""
        try:
            self.cache.clear()
            gc.collect()
            self._unload_models()
        except Exception:
            log.exception("Memory could not be given back.")

    def _crashed(self, job: Job, error: BaseException) -> Outcome:
        """The outcome of a job that failed outside of its nodes; what was kept of it is dropped."""
        log.error("Job %s failed outside of its nodes.", job.prompt_id, exc_info=error)
        self.cache.clear()
        node_id = job.outputs[0]
        data = {
            "prompt_id": job.prompt_id,
            "node_id": node_id,
            "node_type": job.graph[node_id]["class_type"],
            "executed": [],
            **self.reporter.node_failure(error, {}),
            "current_outputs": [],
            "timestamp": int(time.time() * 1000),
        }
        if job.client_id is not None:
            self.send("execution_error", data, job.client_id)
        return Outcome(False, [("execution_error", data)])


class _Run:
    """One job on its way."""

    def __init__(self, executor: Executor, job: Job) -> None:
        self.executor = executor
        self.registry = executor.registry.remembering()
        self.cache = executor.cache
        self.job = job
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.executed: list[str] = []
        self.reports: dict[str, Mapping[str, Any]] = {}
        self.memo: dict[str, Any] = {}
        self.states = NodeStates(job.prompt_id, self._send)

    def run(self) -> Outcome:
        self._record("execution_start")
        self.cache.begin(signatures(self.job.graph, self.registry, self.job.outputs))
        self._record("execution_cached", nodes=[each for each in self.job.graph if self.cache.get(each)])
        schedule = Schedule(self.job.graph, self.registry, lambda node_id: self.cache.get(node_id) is not None)
        for output in self.job.outputs:
            schedule.add(output)
        success = True
        while success and (node_id := schedule.next()) is not None:
            success = self._node(node_id, schedule)
        if success:
            self._record("execution_success")
        self._report_unvisited()
        outputs = {node_id: report["output"] for node_id, report in self.reports.items()}
        meta = {node_id: report["meta"] for node_id, report in self.reports.items()}
        return Outcome(success, self.messages, outputs, meta)

    def _report_unvisited(self) -> None:
        """The history of a repeated job, too, tells what the kept nodes before its outputs had reported."""
        for node_id in self.job.graph:
            kept = self.cache.get(node_id)
            if kept is not None and kept.ui is not None:
                self.reports.setdefault(node_id, kept.ui)

    def _send(self, event: str, data: Mapping[str, Any]) -> None:
        """Tell the client that submitted the job; without one nobody hears of it."""
        if self.job.client_id is not None:
            self.executor.send(event, data, self.job.client_id)

    def _record(self, event: str, **facts: Any) -> None:
        """Send a message and keep it for the history. A cancelled job that has no client is told to everybody."""
        data = {"prompt_id": self.job.prompt_id, **facts, "timestamp": int(time.time() * 1000)}
        self.messages.append((event, data))
        if event == "execution_interrupted":
            self.executor.send(event, data, self.job.client_id)
        else:
            self._send(event, data)

    def _node(self, node_id: str, schedule: Schedule) -> bool:
        """Run one node, or have it wait for the lazy inputs that it asks for; False when it failed."""
        kept = self.cache.get(node_id)
        if kept is not None:
            self._report(node_id, kept.ui)
            self.states.finish(node_id)
            schedule.done(node_id)
            return True
        inputs: Values = {}
        try:
            inputs = self._inputs(node_id)
            self.states.start(node_id)
            self._send("executing", self._about(node_id))
            with running(RunningNode(node_id, self.job.cancelled, partial(self._progress, node_id), self.memo)):
                asked = self._lazy(node_id, inputs)
                if not asked:
                    self._execute(node_id, inputs)
            if asked:
                for name in asked:
                    schedule.ask(node_id, name)
                return True
        except Interrupted:
            self._record("execution_interrupted", **self._failed(node_id))
            return False
        except Exception as error:
            failed = self._failed(node_id)
            # Of our own refusals the message says all.
            trace = None if isinstance(error, RylaError) else error
            failure = self._failure(error, inputs)
            words = failure["exception_message"].strip()
            log.error("Node %s (%s) failed: %s", node_id, failed["node_type"], words, exc_info=trace)
            self._record("execution_error", **failed, **failure)
            return False
        self.states.finish(node_id)
        self.executed.append(node_id)
        schedule.done(node_id)
        return True

    def _about(self, node_id: str) -> dict[str, Any]:
        return {"node": node_id, "display_node": node_id, "prompt_id": self.job.prompt_id}

    def _progress(self, node_id: str, value: float, maximum: float) -> None:
        self.states.update(node_id, value, maximum)
        data = {"value": value, "max": maximum, "prompt_id": self.job.prompt_id, "node": node_id}
        self._send("progress", data)

    def _inputs(self, node_id: str) -> Values:
        """The values of a node's inputs; a lazy one that has not been asked for is None."""
        node = self.job.graph[node_id]
        inputs: Values = {}
        for name in self.registry.declaration(node["class_type"]).inputs:
            if name not in node["inputs"]:
                continue
            value = node["inputs"][name]
            if is_link(value):
                entry = self.cache.get(value[0])
                inputs[name] = [None] if entry is None else entry.outputs[value[1]]
            else:
                inputs[name] = [value]
        return inputs

    def _lazy(self, node_id: str, inputs: Values) -> list[str]:
        """The lazy inputs without a value that the node wants now."""
        node = self.job.graph[node_id]
        cls = self._prepared(node_id)
        if getattr(cls, "check_lazy_status", None) is None:
            return []
        takes_lists = self.registry.schema(node["class_type"]).is_input_list
        answers = call(cls.check_lazy_status, takes_lists, inputs, lambda blocker: blocker)
        asked = {name for answer in answers if isinstance(answer, list) for name in answer}
        return [
            name
            for name in sorted(asked)
            if is_link(node["inputs"].get(name)) and self.cache.get(node["inputs"][name][0]) is None
        ]

    def _prepared(self, node_id: str) -> NodeClass:
        """The node's class with the hidden values that its schema asks for."""
        class_type = self.job.graph[node_id]["class_type"]
        known = {
            io.Hidden.unique_id: node_id,
            io.Hidden.prompt: self.job.graph,
            io.Hidden.extra_pnginfo: self.job.extra_data.get("extra_pnginfo"),
        }
        asked = self.registry.schema(class_type).hidden or ()
        return self.registry[class_type].PREPARE_CLASS_CLONE({key: known.get(key) for key in asked})

    def _execute(self, node_id: str, inputs: Values) -> None:
        schema = self.registry.schema(self.job.graph[node_id]["class_type"])
        execute = self._prepared(node_id).execute
        results = call(execute, schema.is_input_list, inputs, lambda blocker: self._blocked(node_id, blocker))
        outputs, ui = collect(results, schema)
        report = None
        if ui:
            ui = self.executor.reporter.hide_in(ui)
            json.dumps(ui, allow_nan=False)  # what cannot be told to clients is the node's failure, not the history's
            meta = {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
            report = {"meta": meta, "output": ui}
            self._report(node_id, report)
        self.cache.put(node_id, Entry(outputs, report))

    def _report(self, node_id: str, report: Mapping[str, Any] | None) -> None:
        """Keep what a node reports for the history, and tell the client."""
        if report is not None:
            self.reports[node_id] = report
        self._send("executed", {**self._about(node_id), "output": (report or {}).get("output")})

    def _blocked(self, node_id: str, blocker: Blocker) -> Blocker:
        """Tell the client why a node does not run, once: further nodes are blocked in silence."""
        if blocker.message is not None:
            data = {"prompt_id": self.job.prompt_id, **self._failed(node_id), **blocked_failure(blocker.message)}
            self._send("execution_error", data)
        return Blocker(None)

    def _failed(self, node_id: str) -> dict[str, Any]:
        class_type = self.job.graph[node_id]["class_type"]
        return {"node_id": node_id, "node_type": class_type, "executed": list(self.executed)}

    def _failure(self, error: Exception, inputs: Values) -> dict[str, Any]:
        """What clients are told of an exception; when memory ran out, everything that can be given back is."""
        if is_out_of_memory(error):
            self.executor.free()
        return self.executor.reporter.node_failure(error, inputs) | {
            "current_outputs": [each for each in self.job.graph if self.cache.get(each)]
        }


def _memory() -> int:
    """The bytes of memory of this machine, or of the container that this runs in."""
    import psutil  # type: ignore[import-untyped]

    total = int(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total
