"""``ryla serve`` as a process of its own, for tests that kill it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

MAIN = "from ryla_nodes.cli.app import main; main()"


class ServeProcess:
    """Started again after ``kill`` it serves the same state on the same port."""

    def __init__(
        self, state: Path, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.state, self._arguments = state, tuple(arguments)
        self._environment = {**os.environ, **(environment or {})}
        self._port = 0
        self.log = state.parent / f"{state.name}.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self, *, seconds: float = 60.0) -> ServeProcess:
        """Start it and wait until it serves."""
        command = [sys.executable, "-c", MAIN, "serve", "--json", "--port", str(self._port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--state", str(self.state), *self._arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self._port = int(json.loads(line)["url"].rsplit(":", 1)[1])
        self._until(lambda: httpx.get(f"{self.url}/health", trust_env=False).status_code == 200, seconds)
        return self

    def until_ready(self, seconds: float = 60.0) -> None:
        self._until(lambda: httpx.get(f"{self.url}/ready", trust_env=False).status_code == 200, seconds)

    def _until(self, condition: object, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            try:
                if condition():  # type: ignore[operator]
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)

    def kill(self) -> None:
        """As the out-of-memory killer does."""
        self.process.kill()
        self._reap(10)

    def stop(self) -> int:
        """As a service manager does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap(60)

    def _reap(self, seconds: float) -> int:
        status = self.process.wait(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def __enter__(self) -> ServeProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
