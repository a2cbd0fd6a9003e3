"""How far a job at a gateway is: from its events, or from what the gateway answers when asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..polling import OnProgress, Phase, Progress

_PHASES = {phase.value: phase for phase in Phase}


class Tracker:
    """Reports snapshots that differ from the last."""

    def __init__(self, server: str, report: OnProgress | None) -> None:
        self._report = report
        self._shown = Progress(Phase.PREPARING, server)

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take an event."""
        now = self._shown
        if kind == "queued":
            self._show(replace(now, phase=Phase.QUEUED, ahead=_count(data.get("position"))))
        elif kind == "running":
            self._show(replace(now, phase=Phase.RUNNING, ahead=None))
        elif kind == "node":
            done, total = _number(data.get("done")), _number(data.get("total"))
            node = str(data.get("node") or "")
            now = replace(now, phase=Phase.RUNNING, ahead=None, node=node, step=0, steps=0)
            self._show(replace(now, nodes_done=done, nodes_total=total))
        elif kind == "step":
            step, steps = _number(data.get("step")), _number(data.get("steps"))
            self._show(replace(now, phase=Phase.RUNNING, ahead=None, step=step, steps=steps))
        elif kind == "fetching":
            self._show(replace(now, phase=Phase.FETCHING))

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Take the gateway's answer."""
        now = replace(self._shown, prompt_id=str(facts.get("prompt_id") or self._shown.prompt_id))
        told = facts.get("progress")
        if facts.get("state") == "queued":
            now = replace(now, phase=Phase.QUEUED, ahead=_count(facts.get("position")))
        elif facts.get("state") == "running" and isinstance(told, dict):
            numbers = {name: _number(told.get(name)) for name in ("step", "steps", "nodes_done", "nodes_total")}
            phase = _PHASES.get(str(told.get("phase")), Phase.RUNNING)
            now = replace(now, phase=phase, ahead=None, node=str(told.get("node") or ""), **numbers)  # type: ignore[arg-type]
        self._show(now)

    def phase(self, phase: Phase) -> None:
        """Say which part begins."""
        self._show(replace(self._shown, phase=phase))

    def _show(self, progress: Progress) -> None:
        if progress != self._shown:
            self._shown = progress
            if self._report is not None:
                self._report(progress)


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _number(value: Any) -> int:
    return _count(value) or 0
