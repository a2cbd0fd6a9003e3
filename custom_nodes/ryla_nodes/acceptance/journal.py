"""``journal.jsonl``: every measurement as a line, on the disk before the next begins; from it a run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from .. import files as disk
from ..errors import RylaError
from ..models.locks import locked
from ..text import json_line

Line = dict[str, Any]


class Journal:
    """The journal of one run; use it as a context manager: one runner at a time.

    Attributes:
        run: what the first line tells of the run, such as its seed.
        lines: key -> measurement.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run: Line = {}
        self.lines: dict[str, Line] = {}
        self._held = ExitStack()

    def __enter__(self) -> Journal:
        """Lock and read it.

        Raises:
            RylaError: ``batch_running``, ``invalid_manifest``, ``output_not_writable``.
        """
        with ExitStack() as held:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.path.with_name(f".{self.path.name}.lock"), self._is_held))
                self._read()
            except OSError as error:
                raise self._not_writable(error) from error
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _is_held(self, _: str) -> NoReturn:
        hint = "Wait for it, or give another folder with -o."
        raise RylaError("batch_running", f"Another run is at work on {self.path.parent}.", hint=hint)

    def _read(self) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        whole, _, torn = data.rpartition(b"\n")
        if torn:
            # The line that a killed run was writing: what it says was not measured.
            with self.path.open("rb+") as file:
                file.truncate(len(whole) + bool(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.lines[entry["key"]] = entry
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                message = f"{self.path}, line {number}, is no measurement of an acceptance run."
                hint = "Give another folder with -o."
                raise RylaError("invalid_manifest", message, hint=hint, path=str(self.path)) from error
        self.run = self.lines.pop("run", {})

    def begin(self, digest: str, facts: Mapping[str, Any]) -> None:
        """Begin a run, or go on with the one that is there.

        Raises:
            RylaError: ``invalid_manifest``: what is there was asked for something else.
        """
        if not self.run:
            self.run = {"key": "run", "digest": digest, **facts}
            self._append(self.run)
        elif self.run["digest"] != digest:
            message = f"{self.path.parent} holds a run that was asked for something else (workflows, prompts, photos)."
            raise RylaError("invalid_manifest", message, hint="Give another folder with -o, or delete this one.")

    def add(self, key: str, facts: Mapping[str, Any]) -> Line:
        """Write a measurement down."""
        self.lines[key] = {"key": key, **facts}
        self._append(self.lines[key])
        return self.lines[key]

    def done(self, key: str) -> bool:
        """Whether it was measured, and its picture is still there."""
        line = self.lines.get(key)
        return line is not None and ("file" not in line or self._intact(line))

    def _intact(self, line: Line) -> bool:
        try:
            return disk.sha256(self.path.parent / str(line["file"])) == str(line["sha256"])
        except OSError:
            return False

    def _append(self, line: Line) -> None:
        try:
            disk.append(self.path, json_line(line).encode() + b"\n")
        except OSError as error:
            raise self._not_writable(error) from error

    def _not_writable(self, error: OSError) -> RylaError:
        message = f"{self.path} cannot be written: {error.strerror}."
        return RylaError("output_not_writable", message, path=str(self.path))
