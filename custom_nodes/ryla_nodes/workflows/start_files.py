"""The files of a program itself, its modules, what they read and its libraries, noted for the next start.

From a cold disk a process that imports PyTorch opens thousands of files and waits at each; beside somebody who reads
weights it waits longer. Read before them, all at once, they take seconds.
"""

from __future__ import annotations

import hashlib
import json
import stat
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ..files import write_whole

THREADS = 8
"""That read them: most are small, and it is the waiting that counts."""

_EVERY_S = 10.0
_TIMES = 30
_MAPS = Path("/proc/self/maps")
_LARGEST = 16 << 20
"""Of a file that is read and is no module: larger ones are weights."""


def path_of(volume: Path) -> Path:
    """Where the files of this Python are noted."""
    digest = hashlib.sha256(f"{sys.prefix} {sys.version}".encode()).hexdigest()[:12]
    return volume / "cache" / f"start-{digest}.json"


def known(volume: Path | None) -> list[Path]:
    """The files that an earlier process noted, in the order in which to read them."""
    if volume is None:
        return []
    try:
        found = json.loads(path_of(volume).read_text())
    except (OSError, ValueError):
        return []
    return [Path(name) for name in found if isinstance(name, str)] if isinstance(found, list) else []


def used(opened: Collection[str] = ()) -> list[Path]:
    """The files of this process: modules in the order of their import, those of ``opened``, then its libraries."""
    modules = []
    for module in list(sys.modules.values()):
        names = getattr(module, "__cached__", None), getattr(module, "__file__", None)
        found = next((name for name in names if isinstance(name, str) and Path(name).is_file()), None)
        if found is not None:
            modules.append(found)
    read = [name for name in list(opened) if _is_small_file(name)]
    return [Path(name) for name in dict.fromkeys([*modules, *read, *_libraries()])]


def _is_small_file(name: str) -> bool:
    try:
        about = Path(name).stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(about.st_mode) and 0 < about.st_size <= _LARGEST and not name.startswith(("/proc/", "/sys/"))


def _libraries() -> list[str]:
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:  # Not Linux.
        return []
    names = (line.split(maxsplit=5)[5] for line in lines if line.count(" ") >= 5 and "/" in line)
    return [name for name in dict.fromkeys(names) if ".so" in Path(name).name]


def note(volume: Path, before: int = 0, opened: Collection[str] = ()) -> int:
    """Note what this process uses, if that is more than ``before`` files; how many it uses."""
    names = [str(path.absolute()) for path in used(opened)]
    if len(names) > before:
        target = path_of(volume)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, json.dumps(names).encode())
    return len(names)


def keep_noting(volume: Path, opened: Collection[str] = ()) -> threading.Thread:
    """Note it now and then for some minutes: the first picture imports as much as the start.

    ``opened`` has the files that the process read so far, and grows.
    """
    thread = threading.Thread(target=_keep_noting, args=(volume, opened), name="ryla-note", daemon=True)
    thread.start()
    return thread


def _keep_noting(volume: Path, opened: Collection[str]) -> None:
    count, seen, pause = 0, (0, 0, 0), threading.Event()
    with suppress(OSError):  # A volume that takes nothing: then the next start is as this one.
        for _ in range(_TIMES):
            pause.wait(_EVERY_S)
            now = len(sys.modules), len(opened), len(_libraries())
            if now != seen:  # To look at thousands of files takes time that the first pictures want.
                count, seen = note(volume, count, opened), now
