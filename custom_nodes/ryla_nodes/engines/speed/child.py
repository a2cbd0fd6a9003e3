"""Processes that do for this one what would hold it up, or might end it: both their ends.

They are given a line of JSON and what is pickled. The last line of their standard error tells what went wrong.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch

from .traced import PACKAGE

first_settings: list[tuple[str, str, Any]] = []
"""What an engine needs to be set before its modules are imported: module, attribute, value."""

_NOT_NOW = 75  # What sysexits.h calls a temporary failure.
_STOPPED = ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM")
_ROOT = Path(__file__).resolve().parents[3]
_RUN = """
import sys
sys.path.insert(0, sys.argv[1])  # This package may be installed as well, in another version.
import ryla_nodes
sys.path.pop(0)
from ryla_nodes.engines.speed.{module} import main
main()
"""


class NotNow(Exception):
    """What is wrong has to do with this moment, and not with what was to be done."""


_LACKING = (NotNow, MemoryError, torch.OutOfMemoryError)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit status; below zero the signal that ended it.
        said: the lines of its standard error.
    """

    code: int
    said: list[str]

    @property
    def reason(self) -> str:
        """Why it did not do all; "" when it did."""
        if self.code < 0:
            return f"it was ended by signal {-self.code} ({signal.Signals(-self.code).name})"
        return "" if self.code == 0 else (self.said or [f"exit status {self.code}"])[-1]

    @property
    def is_passing(self) -> bool:
        """Whether it may do it another time: it was stopped, or lacked memory or another thing of the machine."""
        return self.code == _NOT_NOW or self.code in [-getattr(signal, name, 0) for name in _STOPPED]


def run(module: str, niceness: int, given: bytes, seconds: float | None = None) -> Ended:
    """Have ``main`` of a module of this folder run in a process of its own, with ``given`` to read.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took longer than ``seconds``, and was ended.
    """
    start = {"nice": niceness, "package": PACKAGE, "path": sys.path, "argv": sys.argv, "settings": first_settings}
    command = [sys.executable, "-X", "faulthandler", "-c", _RUN.format(module=module), str(_ROOT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    atexit.register(process.kill)
    try:
        _, said = process.communicate(json.dumps(start).encode() + b"\n" + given, seconds)
    finally:
        process.kill()
        process.wait()
        atexit.unregister(process.kill)
    return Ended(process.returncode, said.decode(errors="replace").strip().splitlines())


def begin() -> Any:
    """In the process: get ready as the one that started it was, and read what that pickled."""
    sys.excepthook = _say
    start = json.loads(sys.stdin.buffer.readline())
    if hasattr(os, "nice"):
        os.nice(start["nice"])
    sys.argv = start["argv"]
    sys.path += [path for path in start["path"] if path not in sys.path]
    for module, attribute, value in start["settings"]:
        setattr(importlib.import_module(module), attribute, value)
        first_settings.append((module, attribute, value))
    return _Unpickler(sys.stdin.buffer, start["package"]).load()


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    chain = [error]
    while chain[-1].__context__ is not None:  # What it began with tells more than what came of it.
        chain.append(chain[-1].__context__)
    lacking = [each for each in chain if isinstance(each, _LACKING)]
    # That a compiler ended with an error tells nothing: what it said is in the next.
    telling = [each for each in chain if not isinstance(each, subprocess.SubprocessError)]
    told = lacking[-1] if lacking else (telling or chain)[-1]
    lines = [line for line in str(told).splitlines() if line.strip()]
    words = next((line for line in lines if "error: " in line), lines[0] if lines else "")
    print(f"{type(told).__name__}: {words}", file=sys.stderr, flush=True)  # noqa: T201
    if lacking or isinstance(error, OSError):
        os._exit(_NOT_NOW)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, package: str) -> None:
        super().__init__(file)
        self._package = package

    def find_class(self, module: str, name: str) -> Any:
        """This package is called otherwise where ComfyUI imported it from a folder of its own."""
        own = module.startswith(f"{self._package}.")
        return super().find_class(f"ryla_nodes{module[len(self._package) :]}" if own else module, name)
