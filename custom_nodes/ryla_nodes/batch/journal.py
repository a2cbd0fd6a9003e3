"""``results.jsonl``: what became of each row of a batch, and the memory from which a killed batch goes on.

One JSON object a line, only ever appended, each on the disk before the work goes on. The last line of a row counts.
Before a prompt is posted its id is written down; so after a crash the engine can be asked what became of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..client.job import Submission
from ..client.results import Result
from ..errors import RylaError
from ..files import flush
from .rows import Row

_SUBMITTED = "submitted"


class Journal:
    """The journal of one batch; use it as a context manager: one runner at a time.

    Attributes:
        last: row key -> its last line.
    """

    def __init__(self, path: Path, workflow: str) -> None:
        self.path = path
        self.last: dict[str, dict[str, Any]] = {}
        self._workflow = workflow
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def __enter__(self) -> Journal:
        """Lock and read it.

        Raises:
            RylaError: ``batch_running``, ``invalid_manifest``, ``output_folder_missing``, ``output_not_writable``.
        """
        if not self.path.parent.is_dir():
            folder = self.path.parent
            hint = f"mkdir -p {folder}"
            raise RylaError(
                "output_folder_missing", f"The folder {folder} does not exist.", hint=hint, path=str(folder)
            )
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            message = f"Another runner is at work on {self.path}."
            raise RylaError("batch_running", message, path=str(self.path)) from error
        except OSError as error:
            raise self._not_writable(error) from error
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._not_writable(error) from error
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            # The line that a killed runner was writing: what it says was not done.
            with self.path.open("rb+") as file:
                file.truncate(len(whole) + bool(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            self._take(number, line)

    def _take(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            key, workflow = entry["row"], entry["workflow"]
        except (ValueError, KeyError, TypeError) as error:
            message = f"{self.path}, line {number}, is no result of a batch."
            raise RylaError("invalid_manifest", message, path=str(self.path), line=number) from error
        if workflow != self._workflow:
            message = f"{self.path} holds results of {workflow}, not of {self._workflow}."
            raise RylaError("invalid_manifest", message, path=str(self.path), line=number)
        self.last[key] = entry

    def finished(self, row: Row) -> Path | None:
        """The first picture of a row that succeeded, while it is there; None when the row has to be run."""
        entry = self.last.get(row.key)
        if entry is None or entry["state"] != "succeeded":
            return None
        file = self.path.parent / str(entry["files"][0])
        return file if file.is_file() else None

    def submission(self, row: Row) -> Submission | None:
        """Where a row was posted whose end is not known."""
        entry = self.last.get(row.key)
        if entry is None or entry["state"] != _SUBMITTED:
            return None
        return Submission(str(entry["server"]), str(entry["prompt_id"]))

    def seed(self, row: Row) -> int | None:
        """The seed that a row was given at first: it keeps it."""
        entry = self.last.get(row.key)
        seed = entry.get("seed") if entry else None
        return seed if isinstance(seed, int) else None

    # --- writing ------------------------------------------------------------------------------------------------------

    def submitted(self, row: Row, submission: Submission, seed: int | None) -> None:
        """Write down that a row is about to be posted."""
        self._append(row, _SUBMITTED, {"server": submission.server, "prompt_id": submission.prompt_id, "seed": seed})

    def ended(self, row: Row, result: Result, files: list[Path]) -> None:
        """Write down how a row ended; its pictures are on the disk already."""
        folder = self.path.parent
        facts: dict[str, Any] = {
            "files": [os.path.relpath(file, folder) for file in files],
            "seed": result.seed,
            "server": result.server,
            "prompt_id": result.prompt_id,
            "execution_seconds": result.timings.execution,
            "total_seconds": round(result.timings.total, 3),
            "parameters": dict(result.parameters),
        }
        if result.error is not None:
            facts["error"] = result.error.as_dict()
        if result.warnings:
            facts["warnings"] = list(result.warnings)
        self._append(row, result.state.value, facts)

    def _append(self, row: Row, state: str, facts: Mapping[str, Any]) -> None:
        entry = {"row": row.key, "index": row.index, "state": state, "workflow": self._workflow,
                 "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}  # fmt: skip
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps(entry, ensure_ascii=False, default=str).encode() + b"\n")
            flush(self.path)
        except OSError as error:
            raise self._not_writable(error) from error
        self.last[row.key] = entry

    def _not_writable(self, error: OSError) -> RylaError:
        message = f"{self.path} cannot be written: {error.strerror}."
        return RylaError("output_not_writable", message, path=str(self.path))
