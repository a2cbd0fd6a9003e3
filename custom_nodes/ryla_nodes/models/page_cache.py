"""Model files read into the system's page cache before anybody asks for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

THREADS = 4
_CHUNK = 8 << 20
_POLL_SECONDS = 0.05
# Of the memory that is free at the beginning; the rest is for the program that wants the files.
_SHARE = 0.8
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Part:
    """Bytes of a file, from ``start`` to before ``end``."""

    path: Path
    start: int
    end: int


def whole(path: Path) -> Part:
    """All of a file. Raises ``OSError``."""
    return Part(path, 0, path.stat().st_size)


def fill(
    parts: Iterable[Part], limit: int | None = None, threads: int = THREADS, free: threading.Event | None = None
) -> int:
    """Read parts of files, or as much of them as ``limit`` bytes (the free memory's greater part when None) hold.

    What is in the cache already is passed over. A file that cannot be read is left out. ``parts`` are asked for as
    they are read.

    Args:
        free: set once nobody else needs the disk; only one thread reads before.

    Returns:
        The bytes that were read.
    """
    chunks = _chunks(parts, int(available_memory() * _SHARE) if limit is None else limit)
    taking, done = threading.Lock(), threading.Event()

    def work(helper: bool) -> int:
        total = 0
        while not done.is_set():
            if helper and free is not None and not free.wait(_POLL_SECONDS):
                continue
            with taking:
                chunk = next(chunks, None)
            if chunk is None:
                done.set()
            else:
                total += _read(chunk)
        return total

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, (number > 0 for number in range(threads))))


def available_memory() -> int:
    """Bytes that programs of this machine, or of this container, can still have; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    with suppress(OSError, ValueError):  # No container, or no limit.
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        cached = [line for line in (_CGROUP / "memory.stat").read_text().splitlines() if line.startswith("file ")]
        free = min(free, limit - used + sum(int(line.split()[1]) for line in cached))
    return free


def _chunks(parts: Iterable[Part], budget: int) -> Iterator[Part]:
    for part in parts:
        end = min(part.end, part.start + budget)
        for start in range(part.start, end, _CHUNK):
            yield Part(part.path, start, min(start + _CHUNK, end))
        budget -= max(0, end - part.start)
        if budget <= 0:
            return


def _read(part: Part) -> int:
    length = part.end - part.start
    try:
        with part.path.open("rb", buffering=0) as file:
            if _is_cached(file.fileno(), part.start, length):
                return 0
            file.seek(part.start)
            return len(file.read(length))
    except OSError:
        return 0


def _is_cached(descriptor: int, start: int, length: int) -> bool:
    """Whether the beginning, the middle and the end of a part are in the cache; False where that cannot be asked."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        return all(
            os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT)
            for place in (start, start + length // 2, start + length - 1)
        )
    except OSError:  # Not there yet, or a file system that does not tell.
        return False
