"""The files of a program itself, its modules, what they read and its libraries, noted for the next start.

From a cold disk a process that imports PyTorch opens thousands of files and waits at each; beside somebody who reads
weights it waits longer. Read before them, all at once, they take seconds. Of a library only what was used is noted:
a ComfyUI without a GPU looks at 0.4 of the 1.3 GB of its libraries.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..files import write_whole
from ..models.page_cache import Part, whole

THREADS = 8
"""That read them: most are small, and it is the waiting that counts."""

_EVERY_S = 10.0
_TIMES = 30
_MAPS, _PAGES = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_LARGEST = 16 << 20
"""Of a file that is read and is no module: larger ones are weights."""
_BLOCK = 256 << 10
_GAP = 4
"""Blocks that were not used are read too where there are so few of them: to begin anew takes a disk as long."""


class _Mapping(NamedTuple):
    """A part of a file, from ``offset`` on, and the addresses at which this process has it."""

    start: int
    end: int
    offset: int


def path_of(volume: Path) -> Path:
    """Where the files of this Python are noted."""
    digest = hashlib.sha256(f"{sys.prefix} {sys.version}".encode()).hexdigest()[:12]
    return volume / "cache" / f"start-{digest}.json"


def known(volume: Path | None) -> list[Part]:
    """What an earlier process noted, in the order in which to read it; the files may have changed since."""
    if volume is None:
        return []
    try:
        found = json.loads(path_of(volume).read_text())
    except (OSError, ValueError):
        return []
    return [part for entry in found if (part := _part(entry))] if isinstance(found, list) else []


def _part(entry: object) -> Part | None:
    match entry:
        case [str(name), int(start), int(end)] if 0 <= start < end:
            return Part(Path(name), start, end)
    return None


def used(opened: Collection[str] = ()) -> list[Part]:
    """What this process has read: modules in the order of their import, those of ``opened``, then its libraries."""
    mapped = _mappings()
    modules = []
    for module in list(sys.modules.values()):
        names = getattr(module, "__cached__", None), getattr(module, "__file__", None)
        found = next((name for name in names if isinstance(name, str) and Path(name).is_file()), None)
        if found is not None and not (_is_library(found) and os.path.realpath(found) in mapped):
            modules.append(found)
    read = [name for name in list(opened) if _is_small_file(name)]
    return [*_whole([*modules, *read]), *_libraries(mapped)]


def _whole(names: Iterable[str]) -> Iterator[Part]:
    for name in dict.fromkeys(names):
        with suppress(OSError):
            part = whole(Path(name).absolute())
            if part.end:
                yield part


def _is_small_file(name: str) -> bool:
    try:
        about = Path(name).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(about.st_mode) and 0 < about.st_size <= _LARGEST and not name.startswith(("/proc/", "/sys/"))


def _is_library(name: str) -> bool:
    return ".so" in Path(name).name


def _mappings() -> dict[str, list[_Mapping]]:
    """Where this process has its libraries."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:  # Not Linux.
        return {}
    found: dict[str, list[_Mapping]] = {}
    for line in lines:
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5].startswith("/") and _is_library(parts[5]):
            start, end = (int(address, 16) for address in parts[0].split("-"))
            found.setdefault(parts[5], []).append(_Mapping(start, end, int(parts[2], 16)))
    return found


def _libraries(mappings: dict[str, list[_Mapping]]) -> Iterator[Part]:
    """What this process has looked at of each library; all of it where the system does not tell."""
    try:
        with _PAGES.open("rb") as pages:
            touched = {name: _touched(pages.fileno(), each) for name, each in mappings.items()}
    except OSError:
        yield from _whole(mappings)
        return
    for name, blocks in touched.items():
        with suppress(OSError):
            size = Path(name).stat().st_size
            for first, last in _runs(blocks):
                yield Part(Path(name), first * _BLOCK, min((last + 1) * _BLOCK, size))


def _touched(pages: int, mappings: Iterable[_Mapping]) -> list[int]:
    """The blocks of a file of which this process has pages. Raises ``OSError``."""
    import numpy as np

    page = mmap.PAGESIZE
    found = []
    for start, end, offset in mappings:
        # 64 bits a page, of which the highest two say that it is in memory or swapped (proc_pid_pagemap(5)).
        entries = np.frombuffer(os.pread(pages, (end - start) // page * 8, start // page * 8), np.uint64)
        found.append((np.flatnonzero(entries >> np.uint64(62)) * page + offset) // _BLOCK)
    return sorted(np.unique(np.concatenate(found)).tolist())


def _runs(blocks: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of blocks that are near one another."""
    first = last = None
    for block in blocks:
        if first is None or last is None:
            first = last = block
        elif block - last > _GAP:
            yield first, last
            first = block
        last = block
    if first is not None and last is not None:
        yield first, last


def note(volume: Path, before: int = 0, opened: Collection[str] = ()) -> int:
    """Note what this process uses, if that is more than ``before`` bytes; how many it uses."""
    parts = used(opened)
    size = sum(part.end - part.start for part in parts)
    if size > before:
        target = path_of(volume)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, json.dumps([(str(part.path), part.start, part.end) for part in parts]).encode())
    return size


def keep_noting(volume: Path, opened: Collection[str] = ()) -> threading.Thread:
    """Note it now and then for some minutes: the first picture imports as much as the start.

    ``opened`` has the files that the process read so far, and grows.
    """
    thread = threading.Thread(target=_keep_noting, args=(volume, opened), name="ryla-note", daemon=True)
    thread.start()
    return thread


def _keep_noting(volume: Path, opened: Collection[str]) -> None:
    size, seen, pause = 0, (0, 0, 0), threading.Event()
    with suppress(OSError):  # A volume that takes nothing: then the next start is as this one.
        for _ in range(_TIMES):
            pause.wait(_EVERY_S)
            now = len(sys.modules), len(opened), len(_mappings())
            if now != seen:  # To look at thousands of files takes time that the first pictures want.
                size, seen = max(size, note(volume, size, opened)), now
        note(volume, size, opened)
