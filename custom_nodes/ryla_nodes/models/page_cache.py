"""Model files read into the system's page cache before anybody asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

THREADS = 4
_CHUNK = 8 << 20
# Of the memory that is free at the beginning; the rest is for the program that wants the files.
_SHARE = 0.8
_CGROUP = Path("/sys/fs/cgroup")


def fill(paths: Iterable[Path], limit: int | None = None) -> int:
    """Read files, or as much of them as ``limit`` bytes (the free memory's greater part when None) hold.

    What is in the cache already is passed over. A file that cannot be read is left out.

    Returns:
        The bytes that were read.
    """
    budget = int(available_memory() * _SHARE) if limit is None else limit
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(lambda part: _read(*part), _parts(paths, budget)))


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


def _parts(paths: Iterable[Path], budget: int) -> Iterator[tuple[Path, int, int]]:
    for path in paths:
        with suppress(OSError):
            end = min(path.stat().st_size, budget)
            for start in range(0, end, _CHUNK):
                yield path, start, min(_CHUNK, end - start)
            budget -= end


def _read(path: Path, start: int, length: int) -> int:
    try:
        with path.open("rb", buffering=0) as file:
            if _is_cached(file.fileno(), start, length):
                return 0
            file.seek(start)
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
