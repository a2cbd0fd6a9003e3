"""A Postgres for tests: the one that ``RYLA_TEST_POSTGRES`` names, else one that is started where its programs are."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_USER = "postgres"


class Postgres:
    """A server of our own; ``pause`` makes it deaf, ``stop`` ends it, ``start`` brings it back on the same port."""

    def __init__(self, root: Path, programs: Path) -> None:
        self._root, self._programs = root, programs
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._run("initdb", "-D", str(root / "data"), "-A", "trust", "-U", _USER)

    def url(self, name: str) -> str:
        """Of a database, which its first user makes."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        options = f"-p {self.port} -k {self._root} -c fsync=off"
        self._run("pg_ctl", "-D", str(self._root / "data"), "-o", options, "-l", str(self._root / "log"), "-w", "start")

    def stop(self) -> None:
        """At once, with every connection."""
        self._run("pg_ctl", "-D", str(self._root / "data"), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        # It refuses to run as root.
        user = {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._root, **user)  # type: ignore[call-overload]


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for a block; the test is skipped where there is none."""
    if not _PLACES:
        pytest.skip("There is no Postgres in /usr/lib/postgresql.")
    root = Path(tempfile.mkdtemp(prefix="ryla-postgres-"))
    if os.geteuid() == 0:
        try:
            shutil.chown(root, _USER, _USER)
        except LookupError:
            pytest.skip("There is no user postgres, and Postgres does not run as root.")
    server = Postgres(root, _PLACES[0])
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        time.sleep(0.1)
        shutil.rmtree(root, ignore_errors=True)
