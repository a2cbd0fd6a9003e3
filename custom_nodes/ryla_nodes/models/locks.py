"""A lock on a volume, whatever its file system: a real lock, or a file that its holder keeps touching.

NFS without its lock daemon, SMB and some user-space file systems have no ``flock``: they refuse it, or never answer.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_log = logging.getLogger(__name__)

_POLL_S = 0.5
_PROBE_S = 5.0
_BEAT_S = 5.0
_STALE_S = 60.0  # Longer than a network file system keeps an old mtime.
_asking = threading.Lock()

Waiting = Callable[[str], None]
Owner = dict[str, object]


@contextmanager
def locked(path: Path, waiting: Waiting) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes, on this machine or another.

    ``waiting`` is called twice a second while somebody else holds it, with what is known of them; it may raise to stop.
    Where the file system has no locks, ``path`` with ``.owner`` behind its name stands for one: it is taken over when
    its process is dead, or has not touched it for a minute.

    Raises:
        OSError: the file cannot be made.
    """
    with _asking:
        lockable = _has_locks(path.parent)
    if lockable:
        with _real(path, waiting):
            yield
    else:
        with _stand_in(path.with_name(f"{path.name}.owner"), waiting):
            yield


@contextmanager
def _real(path: Path, waiting: Waiting) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=_POLL_S)
            break
        except Timeout:
            waiting("")
    try:
        yield
    finally:
        lock.release()


@cache
def _has_locks(folder: Path) -> bool:
    """Whether ``flock`` works in ``folder``, tried on a file of its own, so that nobody can hold it."""
    answers: list[bool] = []
    probe = threading.Thread(target=lambda: answers.append(_try_lock(folder)), daemon=True)
    probe.start()
    probe.join(_PROBE_S)
    if answers == [True]:
        return True
    _log.warning("The file system of %s has no locks; a file stands for one.", folder)
    return False


def _try_lock(folder: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, whose locks are another call.
        return True
    path = folder / f".{secrets.token_hex(4)}.probe"
    try:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        # One that cannot even be made is no matter of locks: making the lock file says why.
        return not path.exists()
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _stand_in(path: Path, waiting: Waiting) -> Iterator[None]:
    mine = {
        "host": socket.gethostname(),
        "processes": _process_space(),
        "pid": os.getpid(),
        "token": secrets.token_hex(8),
    }
    seen: tuple[int, float] | None = None
    while not _claimed(path, mine):
        seen = _watched(path, seen)
        if seen is not None:
            waiting(str(_owner(path).get("host", "")))
        time.sleep(_POLL_S)
    done = threading.Event()
    beat = threading.Thread(target=_keep_touching, args=(path, done), daemon=True)
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        if _owner(path) == mine:
            path.unlink(missing_ok=True)


def _claimed(path: Path, mine: Owner) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(mine, file)
    return True


def _watched(path: Path, seen: tuple[int, float] | None) -> tuple[int, float] | None:
    """The mtime of the owner's file and since when it has been so; None when it is gone, removed here or not."""
    try:
        mtime_ns = path.stat().st_mtime_ns
    except OSError:
        return None
    if seen is None or seen[0] != mtime_ns:
        seen = (mtime_ns, time.monotonic())
    owner = _owner(path)
    if time.monotonic() - seen[1] > _STALE_S or _is_dead(owner):
        _remove(path, owner)
        return None
    return seen


def _remove(path: Path, owner: Owner) -> None:
    """Remove the file of an owner that is gone, but not that of somebody who took it over in this moment."""
    removed = path.with_name(f".{secrets.token_hex(4)}.stale")
    with suppress(OSError):
        path.rename(removed)
        if _owner(removed) == owner:
            removed.unlink()
        else:
            removed.rename(path)


def _owner(path: Path) -> Owner:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_dead(owner: Owner) -> bool:
    """Whether the owner was a process of this machine and is no more; of other machines nothing is known."""
    pid = owner.get("pid")
    here = (owner.get("host"), owner.get("processes")) == (socket.gethostname(), _process_space())
    if not here or not isinstance(pid, int) or os.name != "posix":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _process_space() -> str:
    """What tells containers of one host name apart, each of which counts its processes for itself."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _keep_touching(path: Path, done: threading.Event) -> None:
    while not done.wait(_BEAT_S):
        with suppress(OSError):
            os.utime(path)
