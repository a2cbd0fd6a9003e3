"""Engines that the gateway starts itself: one process each, watched, started again when it dies, stopped at the end.

A child outlives a gateway that is killed, and the next one on the same state folder takes it over with its jobs: so its
output goes to a file, and its port is written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ..client.address import Address
from ..errors import RylaError

log = logging.getLogger(__name__)

_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_SETTLED_SECONDS = 60.0
_LOOK_SECONDS = 0.25
_STOP_SECONDS = 15.0
_TAIL_LINES = 15
_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class ChildSpec:
    """What to start.

    Attributes:
        name: of its files in the state folder.
        command: ``{port}`` stands for the port.
        environment: added to the gateway's own.
        inputs: its input folder, where the uploads of ended jobs are deleted.
        outputs: a folder of pictures that is the gateway's alone, where old ones are deleted.
        ready_within: seconds that its start may take.
    """

    name: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    inputs: Path | None = None
    outputs: Path | None = None
    ready_within: float = 300.0


class Child:
    """One engine process.

    Attributes:
        trouble: why it does not work; None while it does.
        deaths: how often it ended since it last answered.
    """

    def __init__(self, spec: ChildSpec, state: Path) -> None:
        self.spec = spec
        self._record, self._log = state / f"{spec.name}.json", state / f"{spec.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid, port = self._recorded()
        self._port = port if port and (self._pid or _is_free(port)) else _free_port()
        self.trouble: RylaError | None = None
        self.deaths = 0

    @property
    def url(self) -> str:
        """Its base URL, the same over restarts."""
        return f"http://127.0.0.1:{self._port}"

    def _recorded(self) -> tuple[int, int]:
        """Process id and port of the child that an earlier gateway left; the id is 0 when it no longer runs."""
        try:
            told = json.loads(self._record.read_text(encoding="utf-8"))
            pid, port = int(told["pid"]), int(told["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (pid if _runs(pid, self.spec.command) else 0), port

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        if self._process is not None:
            return self._process.poll() is None
        return bool(self._pid) and _runs(self._pid, self.spec.command)

    def start(self) -> None:
        """Start it, unless an earlier gateway's child still runs.

        Raises:
            RylaError: ``comfyui_start_failed``: it cannot be started at all.
        """
        if self.alive:
            log.info("The engine of an earlier gateway goes on.", extra={"engine": self.spec.name})
            return
        command = [part.replace("{port}", str(self._port)) for part in self.spec.command]
        try:
            with self._log.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.spec.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.environment},
                    start_new_session=os.name == "posix",
                )
        except OSError as error:
            message = f"{command[0]} cannot be started: {error.strerror}."
            raise RylaError("comfyui_start_failed", message) from error
        self._pid = self._process.pid
        self._record.write_text(json.dumps({"pid": self._pid, "port": self._port}), encoding="utf-8")

    async def ready(self) -> bool:
        """Whether it answers."""
        try:
            headers = Address.parse(self.url).headers
            async with httpx.AsyncClient(trust_env=False, timeout=2.0, headers=headers) as http:
                return (await http.get(f"{self.url}/system_stats")).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End it and what it started; it is killed when it does not end by itself."""
        for kill in (False, True):
            if not self.alive:
                break
            self._signal(kill)
            end = time.monotonic() + _STOP_SECONDS
            while self.alive and time.monotonic() < end:
                time.sleep(0.05)
        self._record.unlink(missing_ok=True)

    def _signal(self, kill: bool) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                os.kill(self._pid, signal.SIGTERM)
            else:
                os.killpg(self._pid, signal.SIGKILL if kill else signal.SIGTERM)

    def tail(self) -> str:
        """The last lines that it printed."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, self._log.stat().st_size - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL_LINES:])

    def died(self) -> RylaError:
        """Its death as an error, with the end of its log."""
        status = self._process.returncode if self._process else None
        how = "ended"
        if status is not None:
            how = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
        message = f"The engine {self.spec.name} {how}. The end of its log:\n{self.tail()}"
        return RylaError("comfyui_crashed", message, status=status)


class Children:
    """All of them, under supervision.

    Raises:
        RylaError: ``not_writable``: the folder ``state`` of their logs.
    """

    def __init__(self, specs: Sequence[ChildSpec], state: Path) -> None:
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RylaError("not_writable", f"{state} cannot be written: {error.strerror}.") from error
        self.children = [Child(spec, state) for spec in specs]
        self._watchers: list[asyncio.Task[None]] = []

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(child.url for child in self.children)

    def trouble(self, url: str) -> RylaError | None:
        """Why the child at ``url`` does not work; None when it does, or is none of ours."""
        return next((child.trouble for child in self.children if child.url == url), None)

    def start(self) -> None:
        """Start all, and watch them from now on."""
        for child in self.children:
            child.start()
        self._watchers = [asyncio.ensure_future(self._watch(child)) for child in self.children]

    async def _watch(self, child: Child) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            await self._until_dead(child)
            failures = 0 if time.monotonic() - began > _SETTLED_SECONDS else failures + 1
            child.trouble, child.deaths = child.died(), child.deaths + 1
            log.error("%s", child.trouble.message, extra={"engine": child.spec.name})
            await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            try:
                child.start()
            except RylaError as error:
                child.trouble = error

    async def _until_dead(self, child: Child) -> None:
        """Wait for its end; one that does not answer in time is ended."""
        answered, end = False, time.monotonic() + child.spec.ready_within
        while child.alive:
            if not answered:
                answered = await child.ready()
                if answered:
                    child.trouble, child.deaths = None, 0
                if not answered and time.monotonic() > end:
                    log.error("The engine was not ready in time.", extra={"engine": child.spec.name})
                    await asyncio.to_thread(child.stop)
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self) -> None:
        """Stop watching, and end all."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*(asyncio.to_thread(child.stop) for child in self.children))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _runs(pid: int, command: Sequence[str]) -> bool:
    """Whether a process of this id runs, and is ours as far as the system tells."""
    line = Path(f"/proc/{pid}/cmdline")
    try:
        if Path("/proc/self/cmdline").exists():
            return command[0].encode() in line.read_bytes()
        os.kill(pid, 0)
    except OSError:
        return False
    return True
