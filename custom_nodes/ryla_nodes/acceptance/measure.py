"""One job of an acceptance run, and what its journal line says of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..client.job import Job
from ..client.results import Result
from ..errors import RylaError
from ..files import sha256
from ..workflows.workflow import Workflow
from .bench import Bench

GONE = ("engine_unreachable", "engine_forbidden", "not_comfyui", "zombie_worker", "server_gone", "server_restarted",
        "job_lost", "gateway_gone", "not_a_gateway", "unauthorized", "shutting_down", "transfer_failed")  # fmt: skip
"""Faults of the engine, not of the job."""

PICTURES = "pictures"


class Stopwatch:
    """Runs jobs on the bench and writes their pictures below ``out``."""

    def __init__(self, bench: Bench, out: Path, timeout: float) -> None:
        self._bench, self._out, self._timeout = bench, out, timeout

    def run(self, workflow: Workflow, values: Mapping[str, object], name: str, **facts: Any) -> dict[str, Any]:
        """Run one job; ``facts`` are added to what is told of it.

        Raises:
            RylaError: the engine's fault; ``cancelled``. A job that fails by itself is a measurement.
        """
        return self.together(workflow, [(values, name, facts)])[0]

    def together(
        self, workflow: Workflow, jobs: Sequence[tuple[Mapping[str, object], str, Mapping[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Run jobs at the same time, each with its values, the name of its picture and its facts; see ``run``."""
        client, began = self._bench.client, time.monotonic()
        started: list[Job] = [client.start(workflow, values, timeout=self._timeout) for values, _, _ in jobs]
        results = [client.wait(job) for job in started]
        for result in results:
            if result.error is not None and result.error.code in (*GONE, "cancelled", "cancel_unverified"):
                raise result.error
        wall = time.monotonic() - began
        asked = zip(jobs, started, results, strict=True)
        return [
            {**facts, **self._told(job, result, values, name), "wall": round(wall, 3)}
            for (values, name, facts), job, result in asked
        ]

    def _told(self, job: Job, result: Result, values: Mapping[str, object], name: str) -> dict[str, Any]:
        told: dict[str, Any] = {
            "ok": result.ok,
            "seconds": round(result.timings.total, 3),
            "execution": result.timings.execution,
            "cached": result.cached,
            "prompt": values["prompt"],
            "seed": result.seed,
            "face_similarity": result.face_similarity,
            "error": result.error.as_dict() if result.error is not None else None,
            "warnings": list(result.warnings),
        }
        if values.get("lora_id"):
            told |= _lora(job, result, values)
        if result.ok:
            file = self._saved(result, name)
            told |= {"file": file.relative_to(self._out).as_posix(), "sha256": sha256(file)}
        return told

    def _saved(self, result: Result, name: str) -> Path:
        folder = self._out / PICTURES
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"{folder} cannot be made: {error.strerror}."
            raise RylaError("output_not_writable", message, path=str(folder)) from error
        return result.save(folder / name)[0]


def _lora(job: Job, result: Result, values: Mapping[str, object]) -> dict[str, Any]:
    """What the nodes reported of the LoRA: the loader's lines, and the prompt with the trigger word."""
    told: dict[str, Any] = {"lora_id": values["lora_id"], "lora_used": result.told.get("lora_used")}
    for key, node in job.prompt.graph.items():
        lines = [str(text) for text in result.outputs.get(key, {}).get("text", ())]
        if node["class_type"] == "RYLA_LoraLoader" and lines:
            told["lora_report"] = lines[0]
        if node["class_type"] == "RYLA_Prompt" and lines and node["inputs"].get("text") == values["prompt"]:
            told["prompt_used"] = lines[0]
    return told
