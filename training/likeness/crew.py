"""Paints and scores pictures in one process or in several: a GPU waits for Python's own work, which is most of it.

Of several GPUs each gets its share of the processes.
"""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

import torch
import torch.multiprocessing
from ryla_nodes.identity import runtime
from ryla_nodes.models.folders import ModelFolders
from ryla_nodes.models.identity_files import IdentityFiles

from . import ablation
from .engine import SharedEngine, Studio
from .rows import ABLATIONS, Asked, Facts, Set
from .scores import Eyes
from .together import Together

_DONE = None


class CrewFailed(Exception):
    """A process ended before its pictures were done."""


@dataclass(frozen=True)
class Order:
    """What every process of an evaluation has to know; ``batch`` jobs run at once in each of ``processes``."""

    folder: Path
    identity: IdentityFiles
    count: int
    size: int
    steps: int
    batch: int = 1
    processes: int = 1

    @property
    def inputs(self) -> Path:
        """Where reference photos are."""
        return self.engine().files.input

    def engine(self, kind: str = "") -> SharedEngine:
        """The engine for pictures of ``kind``."""
        together = Together(self.batch) if self.batch > 1 else None
        engine = SharedEngine(self.folder / "home", ModelFolders({}), identity=self.identity, together=together)
        if kind not in ABLATIONS:
            return engine
        return engine.with_adapter(ablation.write(self.identity.adapter, kind, self.folder / "ablation"))

    def set(self) -> Set:
        return Set(self.folder, Eyes(self.identity.insightface), self.count, self.size, self.steps)


def quiet(order: Order) -> None:
    """What this process says and how it computes, once for each."""
    logging.getLogger("ryla_nodes").setLevel(logging.CRITICAL)  # What a job says of its failure is noted.
    # InsightFace calls a deprecated method of scikit-image; what silences it elsewhere does not hold in threads.
    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")
    if order.batch * order.processes > 1:
        torch.set_num_threads(1)
        runtime.use_threads(1)


def paint(order: Order, asked: Sequence[Asked]) -> Iterator[tuple[Asked, Facts]]:
    """Each picture with what is noted of it, as it is done.

    Raises:
        CrewFailed: a process died.
    """
    if order.processes == 1:
        yield from _paint(order, asked)
        return
    context = torch.multiprocessing.get_context("spawn")
    results: Queue[Any] = context.Queue()
    shares = [share for first in range(order.processes) if (share := asked[first :: order.processes])]
    gpus = torch.cuda.device_count()
    crew = [
        context.Process(
            target=_member, args=(order, share, results, str(number % gpus) if gpus > 1 else ""), daemon=True
        )
        for number, share in enumerate(shares)
    ]
    for member in crew:
        member.start()
    try:
        left = len(crew)
        while left:
            result = _next(results, crew)
            if result is _DONE:
                left -= 1
            else:
                yield result
    finally:
        for member in crew:
            member.terminate()
            member.join()


def _next(results: Queue[Any], crew: Sequence[Any]) -> Any:
    while True:
        try:
            return results.get(timeout=5)
        except Empty:
            if any(member.exitcode for member in crew):
                raise CrewFailed("A painting process died; its own words are above.") from None


def _member(order: Order, asked: Sequence[Asked], results: Queue[Any], gpu: str) -> None:
    if gpu:  # Before CUDA is asked for anything: a device that is chosen later holds for one thread only.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(gpu)] if visible else gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever started it ends it.
    quiet(order)
    for result in _paint(order, asked):
        results.put(result)
    results.put(_DONE)


def _paint(order: Order, asked: Sequence[Asked]) -> Iterator[tuple[Asked, Facts]]:
    work = order.set().work
    for kind in ("", *ABLATIONS):
        part = [each for each in asked if (each.kind if each.kind in ABLATIONS else "") == kind]
        if part:
            yield from Studio(order.engine(kind), order.batch).results(part, work)
