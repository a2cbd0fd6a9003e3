"""The input, output and temp folders of the embedded engine, with ComfyUI's rules for the names in them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import RylaError
from ..protocol import SaveTarget

KINDS = ("input", "output", "temp")


@dataclass(frozen=True)
class EngineFiles:
    """The folders of files under ``home``; they are made when they are first asked for."""

    home: Path

    def folder(self, kind: str) -> Path:
        """The folder of ``kind`` (one of ``KINDS``)."""
        if kind not in KINDS:
            raise RylaError(
                "unsafe_path", f"There is no folder of files called {kind!r}; there are {', '.join(KINDS)}."
            )
        path = (self.home / kind).resolve()
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def input(self) -> Path:
        return self.folder("input")

    @property
    def output(self) -> Path:
        return self.folder("output")

    @property
    def temp(self) -> Path:
        return self.folder("temp")

    def resolve(self, name: str, kind: str = "input", subfolder: str = "") -> Path:
        """The path of a file by the name that clients use; it need not exist.

        Args:
            name: a file name, with folders in front or not; a trailing ``[input]``, ``[output]`` or ``[temp]``
                (as in ``x.png [output]``) overrides ``kind``.
            kind: the folder to look in, one of ``KINDS``.
            subfolder: a folder below it.

        Raises:
            RylaError: ``unsafe_path`` when the path is outside of the folder.
        """
        annotated = re.fullmatch(r"(.*?)\s*\[(input|output|temp)\]", name, re.DOTALL)
        if annotated:
            name, kind = annotated.groups()
        return self.inside(kind, subfolder, name)

    def inside(self, kind: str, *parts: str) -> Path:
        """``parts`` joined below the folder of ``kind``, links followed; refused when that leads outside of it."""
        root = self.folder(kind)
        if any("\0" in part for part in parts):
            raise RylaError("unsafe_path", f"{parts[-1]!r} is not a file name.")
        path = root.joinpath(*parts).resolve()
        if not path.is_relative_to(root):
            raise RylaError("unsafe_path", f"{'/'.join(parts)!r} is outside of the {kind} folder {root}.")
        return path

    def save_target(self, prefix: str, width: int, height: int, kind: str = "output") -> SaveTarget:
        """Where the next file of ``prefix`` goes; its folder is made.

        Args:
            prefix: name with folders in front or not; ``%width% %height% %year% %month% %day% %hour% %minute%
                %second%`` are filled in.
            width, height: of the picture, in pixels.
            kind: the folder to save in, one of ``KINDS``.

        Raises:
            RylaError: ``unsafe_path`` when the prefix leads outside of the folder.
        """
        path = PurePosixPath(_expanded(prefix.replace("\\", "/"), width, height))
        subfolder = "" if str(path.parent) == "." else str(path.parent)
        folder = self.inside(kind, subfolder)
        folder.mkdir(parents=True, exist_ok=True)
        return SaveTarget(folder, path.name, _next_counter(folder, path.name), subfolder)


def _expanded(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    tokens = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    return re.sub(r"%(\w+)%", lambda match: tokens.get(match[1], match[0]), prefix)


def _next_counter(folder: Path, name: str) -> int:
    """One more than the highest N of the files ``<name>_N...`` in ``folder``; case is ignored, as some disks do."""
    numbered = re.compile(re.escape(name) + r"_(\d+)(?:[_.].*)?", re.IGNORECASE)
    found = (numbered.fullmatch(entry.name) for entry in folder.iterdir())
    return max((int(match[1]) for match in found if match), default=0) + 1
