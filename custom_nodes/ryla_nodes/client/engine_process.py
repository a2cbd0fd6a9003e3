"""An engine of our own: started headless, waited for, watched, stopped."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..errors import RylaError
from .api import EngineProbe
from .limits import Limits

P = TypeVar("P", bound="EngineProcess")

_TAIL = 15
_STOP_SECONDS = 10.0
# Lives in a session of its own until its stdin ends, and then kills the group: so an engine outlives nobody's kill -9.
_WATCHDOG = """
import os, signal, sys, time
if not sys.stdin.read():
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(int(sys.argv[1]), number)
        except OSError:
            break
        time.sleep(2)
"""


class EngineProcess(ABC):
    """One engine as a child process; use it as a context manager.

    Args:
        name: what it is, in messages.
        folder: the folder that it runs in.
        port: where it listens on this machine; 0 picks a free one at each start.
        ready_within: how long its start may take, in seconds.
        environment: variables beside our own.
        on_line: called with each line that it prints while it starts, from another thread.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        port: int = 0,
        ready_within: float = 300.0,
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._name, self._folder, self.environment = name, folder, dict(environment or {})
        self._port, self._ready_within, self._on_line = port, ready_within, on_line
        self._lines: collections.deque[str] = collections.deque(maxlen=200)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.url = ""

    arguments: tuple[str, ...] = ()
    """What it was given beside where to listen."""

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """What to run, to listen on this port."""

    def __enter__(self: P) -> P:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self: P) -> P:
        """Start it and return when it answers.

        Raises:
            RylaError: ``comfyui_start_failed`` with the end of its log.
        """
        port = self._port or _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = self.command(port)
        try:
            # A group of its own: the terminal's Ctrl-C is for us, who then cancel the job before we stop it.
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                start_new_session=os.name == "posix",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            message = f"{command[0]} cannot be started: {error.strerror}."
            raise RylaError("comfyui_start_failed", message, path=command[0]) from error
        try:
            self._watch(self._process.pid)
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self._on_line = None
        return self

    def _watch(self, pid: int) -> None:
        if sys.platform == "win32":
            return
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _unwatch(self) -> None:
        if self._watchdog is not None:
            with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
                self._watchdog.communicate(b"stopped", _STOP_SECONDS)
            self._watchdog = None

    def stop(self, *, grace: float = _STOP_SECONDS) -> None:
        """Stop it, with whatever it started; safe to call twice. ``grace``: the seconds it has to clean up."""
        process = self._process
        if process is None:
            return
        for kill, seconds in ((False, grace), (True, _STOP_SECONDS)):
            if process.poll() is None and seconds:
                self._signal(process, kill)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
        self._unwatch()
        if self._reader is not None:
            self._reader.join(_STOP_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id (on POSIX that of its group, too); None before the start."""
        return None if self._process is None else self._process.pid

    def tail(self, lines: int = _TAIL) -> str:
        """The last lines that it printed."""
        return "\n".join(list(self._lines)[-lines:])

    def crash(self) -> RylaError | None:
        """Its death as an error with the end of its log; None while it runs."""
        if self._process is None or self._process.poll() is None:
            return None
        if self._reader is not None:
            self._reader.join(1.0)
        how = _ended(self._process.returncode)
        message = f"{self._name} {how}. The end of its log:\n{self.tail()}"
        return RylaError("comfyui_crashed", message, exit_status=self._process.returncode, log=self.tail())

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + self._ready_within
        with EngineProbe(self.url, Limits(answer=5.0)) as engine:
            while time.monotonic() < end:
                if self._process.poll() is not None:
                    how = _ended(self._process.returncode)
                    self._fail(f"{self._name} {how} while it started")
                with contextlib.suppress(RylaError):
                    engine.info()
                    return
                time.sleep(0.1)
        self._fail(f"{self._name} was not ready within {self._ready_within:.0f} s")

    def _fail(self, why: str) -> None:
        if self._reader is not None:
            self._reader.join(1.0)
        message = f"{why}. The end of its log:\n{self.tail()}"
        raise RylaError("comfyui_start_failed", message, log=self.tail(), command=list(self.arguments))

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip())
            if self._on_line is not None and line.strip():
                self._on_line(line.strip())

    @staticmethod
    def _signal(process: subprocess.Popen[str], kill: bool) -> None:
        with contextlib.suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill() if kill else process.terminate()
            else:
                os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
