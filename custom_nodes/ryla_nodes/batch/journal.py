"""``results.jsonl``: what became of each row of a batch, and the memory from which a killed batch goes on.

One JSON object a line, only ever appended, each on the disk before the work goes on. Before a prompt is posted its id
is written down; so after a crash the engine can be asked what became of it. A picture counts as made when a line says
that this very job made its files and they still have the bytes that they had.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from .. import files as disk
from ..client.job import Submission
from ..client.results import Result
from ..errors import RylaError
from ..files import decoded
from ..models.locks import locked
from ..text import json_line
from .fingerprint import Fingerprint
from .rows import Row

_SUBMITTED = "submitted"
_SUCCEEDED = "succeeded"


class Journal:
    """The journal of one batch; use it as a context manager: one runner at a time.

    Attributes:
        last: row key -> its last line.
    """

    def __init__(self, path: Path, workflow: str) -> None:
        self.path = path
        self.last: dict[str, dict[str, Any]] = {}
        self._made: list[dict[str, Any]] = []
        self._digests: dict[Path, str] = {}
        self._workflow = workflow
        self._held = ExitStack()

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
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.path.with_name(f".{self.path.name}.lock"), self._is_held))
            except OSError as error:
                raise self._not_writable(error) from error
            self._read()
            self._held = held.pop_all()
        return self

    def _is_held(self, _: str) -> NoReturn:
        raise RylaError("batch_running", f"Another runner is at work on {self.path}.", path=str(self.path))

    def __exit__(self, *_: object) -> None:
        self._held.close()

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
            if line.strip():
                self._take(number, line)

    def _take(self, number: int, line: bytes) -> None:
        try:
            entry = json.loads(decoded(line))
            key, workflow, state = entry["row"], entry["workflow"], entry["state"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            message = f"{self.path}, line {number}, is no result of a batch."
            raise RylaError("invalid_manifest", message, path=str(self.path), line=number) from error
        if workflow != self._workflow:
            message = f"{self.path} holds results of {workflow}, not of {self._workflow}."
            raise RylaError("invalid_manifest", message, path=str(self.path), line=number)
        self._remember(key, state, entry)

    def _remember(self, key: str, state: str, entry: dict[str, Any]) -> None:
        self.last[key] = entry
        if state == _SUCCEEDED:
            self._made.append(entry)

    def made(self, fingerprint: Fingerprint, row: Row | None, claimed: Collection[Path]) -> tuple[Path, ...]:
        """The pictures that this job made, all there and unchanged; empty when it has to be run.

        Args:
            row: look at the lines of this row only; None: at all.
            claimed: files that are another row's.
        """
        for entry in reversed(self._made):
            if self._of(entry, fingerprint, row):
                paths = self._paths(entry)
                if paths and not any(path in claimed for path in paths) and len(self._intact(entry)) == len(paths):
                    return paths
        return ()

    def own(self, fingerprint: Fingerprint, row: Row) -> frozenset[Path]:
        """The unchanged files that this job of this row made, though others of its are gone: it may replace them."""
        entries = [entry for entry in self._made if self._of(entry, fingerprint, row)]
        return frozenset(path for entry in entries for path in self._intact(entry))

    def unproved(self, row: Row) -> bool:
        """Whether the row was made by a version that did not write down of what."""
        entry = self.last.get(row.key)
        return entry is not None and entry["state"] == _SUCCEEDED and "job" not in entry

    @staticmethod
    def _of(entry: Mapping[str, Any], fingerprint: Fingerprint, row: Row | None) -> bool:
        return (row is None or entry["row"] == row.key) and _fingerprint(entry).same(fingerprint)

    def _paths(self, entry: Mapping[str, Any]) -> tuple[Path, ...]:
        names = entry.get("files")
        listed = names if isinstance(names, list) else ()
        return tuple(Path(os.path.normpath(self.path.parent / str(name))) for name in listed)

    def _intact(self, entry: Mapping[str, Any]) -> list[Path]:
        digests = entry.get("sha256")
        pairs = zip(self._paths(entry), digests if isinstance(digests, list) else (), strict=False)
        return [path for path, digest in pairs if self._digest(path) == digest]

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            try:
                self._digests[path] = disk.sha256(path)
            except OSError:
                self._digests[path] = ""
        return self._digests[path]

    def submission(self, row: Row, fingerprint: Fingerprint) -> Submission | None:
        """Where this job of a row was posted, when its end is not known."""
        entry = self.last.get(row.key)
        if entry is None or entry["state"] != _SUBMITTED or not _fingerprint(entry).same(fingerprint):
            return None
        return Submission(str(entry["server"]), str(entry["prompt_id"]), str(entry.get("nonce") or ""))

    def seed(self, row: Row) -> int | None:
        """The seed that a row was given at first: it keeps it."""
        entry = self.last.get(row.key)
        seed = entry.get("seed") if entry else None
        return seed if isinstance(seed, int) else None

    # --- writing ------------------------------------------------------------------------------------------------------

    def submitted(self, row: Row, fingerprint: Fingerprint, submission: Submission, seed: int | None) -> None:
        """Write down that a job is about to be posted."""
        where = {"server": submission.server, "prompt_id": submission.prompt_id, "nonce": submission.nonce}
        self._append(row, _SUBMITTED, {**where, "seed": seed, **_facts(fingerprint)})

    def ended(self, row: Row, fingerprint: Fingerprint, result: Result, files: list[Path]) -> None:
        """Write down how a job ended; its pictures are on the disk already."""
        folder = self.path.parent
        facts: dict[str, Any] = {
            "files": [os.path.relpath(file, folder) for file in files],
            "sha256": [disk.sha256(file) for file in files],
            "seed": result.seed,
            "server": result.server,
            "prompt_id": result.prompt_id,
            "execution_seconds": result.timings.execution,
            "total_seconds": round(result.timings.total, 3),
            "parameters": dict(result.parameters),
            **_facts(fingerprint),
        }
        if result.error is not None:
            facts["error"] = result.error.as_dict()
        if result.warnings:
            facts["warnings"] = list(result.warnings)
        if result.face_similarity is not None:
            facts["face_similarity"] = result.face_similarity
        if result.candidates:
            facts["best_of"] = [candidate.as_dict() for candidate in result.candidates]
        self._append(row, result.state.value, facts)

    def _append(self, row: Row, state: str, facts: Mapping[str, Any]) -> None:
        entry = {"row": row.key, "index": row.index, "state": state, "workflow": self._workflow,
                 "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}  # fmt: skip
        try:
            disk.append(self.path, json_line(entry).encode() + b"\n")
        except OSError as error:
            raise self._not_writable(error) from error
        self._remember(row.key, state, entry)

    def _not_writable(self, error: OSError) -> RylaError:
        message = f"{self.path} cannot be written: {error.strerror}."
        return RylaError("output_not_writable", message, path=str(self.path))


def _fingerprint(entry: Mapping[str, Any]) -> Fingerprint:
    loras = entry.get("loras")
    return Fingerprint(str(entry.get("job") or ""), loras if isinstance(loras, dict) else {})


def _facts(fingerprint: Fingerprint) -> dict[str, Any]:
    return {"job": fingerprint.job, "loras": dict(fingerprint.loras)}
