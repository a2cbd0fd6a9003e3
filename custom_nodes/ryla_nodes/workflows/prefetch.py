"""The model files of workflows, read by a process of its own while an engine is still starting.

``start`` is called from ComfyUI's prestartup, before this package can be imported: so the top of this file needs
nothing but the standard library. The process ends with its parent, and when all is read.

The disk is the engine's first. So the weights are read by one thread until what the engine itself is made of, as noted
at an earlier start, is read by several; where nothing is noted yet, until the engine says that it has started. What
its ``speed`` makes needless is left out once it says so.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models.folders import ModelFolders
    from ..models.page_cache import Part
    from ..settings import Settings

_NVIDIA = ("/dev/nvidiactl", "/dev/dxg")
_MODULE = "_ryla_prefetch"
"""What ComfyUI's prestartup calls this file: it runs it before the package can be imported."""
_READY, _EIGHTHS = "ready", "eighths"
_MOST_FILES = 50_000
_process: subprocess.Popen[str] | None = None
_opened: dict[str, None] | None = None
_RUN = "import sys; sys.path.append(sys.argv[1]); from ryla_nodes.workflows.prefetch import main; main()"


def start(folders: Mapping[str, Sequence[str | Path]], names: Sequence[str] = ()) -> None:
    """Begin to read the files of ``names``, or of what RYLA_PREFETCH names; returns at once.

    They are looked for in RYLA_VOLUME and in ``folders``, paths by ComfyUI's names of folders.
    """
    global _process
    root = Path(__file__).resolve().parents[2]
    request = {"names": list(names), "folders": {name: list(map(str, paths)) for name, paths in folders.items()}}
    try:
        process = subprocess.Popen([sys.executable, "-c", _RUN, str(root)], stdin=subprocess.PIPE, text=True)
        atexit.register(process.kill)
        assert process.stdin is not None
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
    except OSError as error:
        print(f"RYLA_PREFETCH: no process can be started ({error}).", file=sys.stderr)  # noqa: T201
        return
    _process = process
    _note_opened()


def _note_opened() -> None:
    """Note from now on which files this process reads: some libraries read thousands that are no modules of theirs."""
    global _opened
    if _opened is None:
        _opened = {}
        sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    # What is raised here would end what somebody else does; any library may tell of an event by this name.
    if event != "open" or len(arguments) != 3 or _opened is None or len(_opened) >= _MOST_FILES:
        return
    path, mode, flags = arguments
    reads = mode is None or (isinstance(mode, str) and mode.startswith("r"))
    if isinstance(path, str) and isinstance(flags, int) and reads and not flags & (os.O_WRONLY | os.O_RDWR):
        _opened[path] = None


def ready(volume: Path | None) -> None:
    """Say that the engine has started: the disk is free for its weights. Notes its own files for the next start."""
    if _tell(_READY) and volume is not None:
        from . import start_files

        opened = getattr(sys.modules.get(_MODULE), "_opened", None) or _opened
        start_files.keep_noting(volume, opened or {})


def eighths_are_used() -> None:
    """Say that the engine runs on kept 8-bit weights: those that they stand for are not wanted."""
    _tell(_EIGHTHS)


def _tell(word: str) -> bool:
    """Say something to the process that reads; whether there is one."""
    process = getattr(sys.modules.get(_MODULE), "_process", None) or _process
    if process is None or process.stdin is None:
        return False
    with suppress(OSError):  # It has read all, and is gone.
        os.write(process.stdin.fileno(), f"{word}\n".encode())
    return True


def start_for_embedded(settings: Settings) -> None:
    """Begin for an embedded engine: with what RYLA_PREFETCH names, else with flux-dev where there is an NVIDIA card."""
    from ..models.folders import standalone

    names = settings.prefetch or (("flux-dev",) if any(map(os.path.exists, _NVIDIA)) else ())
    if names:
        start(standalone(settings).paths, names)


def main() -> None:
    """What the process does; what to read comes as one line of JSON, and the pipe is held open by its parent."""
    request = json.loads(sys.stdin.readline())
    heard = {word: threading.Event() for word in (_READY, _EIGHTHS)}
    threading.Thread(target=_listen, args=(heard,), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(19)
    from .. import settings
    from ..models import page_cache
    from ..models.folders import ModelFolders, at_root
    from . import start_files

    folders = ModelFolders({name: tuple(map(Path, paths)) for name, paths in request["folders"].items()})
    environment = settings.load()
    if environment.volume:
        folders = folders.merged(at_root(environment.volume), first=True)
    own, free = start_files.known(environment.volume), heard[_READY]
    if own:
        free = threading.Event()
        threading.Thread(target=_read_own, args=(own, free)).start()
    paths = files(request["names"] or environment.prefetch, folders)
    wanted = parts(paths, environment.volume, heard[_EIGHTHS].is_set)
    page_cache.fill(wanted, free=free)


def _read_own(parts: Sequence[Part], read: threading.Event) -> None:
    """Read what an engine is made of: from then on it does not wait for the disk."""
    from ..models import page_cache
    from . import start_files

    page_cache.fill(parts, threads=start_files.THREADS)
    read.set()


def _listen(heard: Mapping[str, threading.Event]) -> None:
    """Note what the parent says, and end with it."""
    for line in sys.stdin:
        event = heard.get(line.strip())
        if event is not None:
            event.set()
    os._exit(0)


def _never() -> bool:
    return False


def parts(paths: Iterable[Path], volume: Path | None, eighths: Callable[[], bool] = _never) -> Iterator[Part]:
    """What to read of ``paths``, in the order in which an engine does.

    Where a file's 8-bit weights are kept on ``volume``, they come after what they do not stand for, and what they do
    stand for comes last, as long as ``eighths`` does not tell that the engine took them: ``speed`` fast needs no more.
    """
    from ..models import kept, page_cache
    from ..models.headers import read_header

    later: list[Part] = []
    last: list[Part] = []
    for path in paths:
        found = kept.find(volume, path)
        with suppress(OSError):
            if found is None:
                yield page_cache.whole(path)
                continue
            beside, instead = kept.parts(found, read_header(path))
            yield from beside
            later.append(page_cache.whole(found.path))
            last += instead
    yield from later
    for part in last:
        if eighths():
            return
        yield part


def files(names: Sequence[str], folders: ModelFolders) -> Iterator[Path]:
    """The files in ``folders`` that workflows and catalogue models need, each once; of unknown names one line each."""
    from .. import settings
    from ..errors import RylaError
    from ..models import catalogue, selection
    from ..models.resolve import find_entry
    from . import manifest

    environment = settings.load()
    known = catalogue.load(environment.catalogue)
    available = manifest.available(environment)
    seen: set[Path] = set()
    for name in names:
        try:
            models = {name: manifest.load(name, environment).models} if name in available else {}
            entries = selection.select([name], models, known)
        except RylaError as error:
            print(f"RYLA_PREFETCH: {error.message}", file=sys.stderr)  # noqa: T201
            continue
        for entry in selection.files(selection.as_installed(entries, folders, known), known):
            path = find_entry(entry, folders, known)
            if path is not None and path.is_file() and path not in seen:
                seen.add(path)
                yield path
