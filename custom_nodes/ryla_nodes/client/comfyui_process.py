"""A ComfyUI of our own, and the embedded engine as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import RylaError
from ..models.workspace import is_comfyui
from .engine_process import EngineProcess

_EMBEDDED = "import sys; sys.path.append(sys.argv.pop(1)); from ryla_nodes.cli.app import main; main()"


class ComfyUIProcess(EngineProcess):
    """One ComfyUI as a child process; use it as a context manager.

    Args:
        folder: the ComfyUI's folder.
        python: the Python that runs it.
        arguments: further arguments for it, such as ``--cpu``.
        port: where it listens on this machine; 0 picks a free one.
        ready_within: how long its start may take, in seconds.
        on_line: called with each line that it prints while it starts, from another thread.
    """

    def __init__(
        self,
        folder: Path,
        python: Path,
        *,
        arguments: Sequence[str] = (),
        port: int = 0,
        ready_within: float = 300.0,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        if not is_comfyui(folder):
            raise RylaError("comfyui_start_failed", f"{folder} is not the folder of a ComfyUI.", path=str(folder))
        super().__init__(f"The ComfyUI in {folder}", folder, port=port, ready_within=ready_within, on_line=on_line)
        self._python, self.arguments = python, tuple(arguments)

    def command(self, port: int) -> list[str]:
        return [str(self._python), "main.py", "--listen", "127.0.0.1", "--port", str(port),
                "--disable-auto-launch", *self.arguments]  # fmt: skip


class EmbeddedProcess(EngineProcess):
    """The embedded engine as a child process, so that it can be restarted; ``home``: its folder."""

    def __init__(self, home: Path, *, port: int = 0, ready_within: float = 300.0) -> None:
        super().__init__("The embedded engine", Path.cwd(), port=port, ready_within=ready_within)
        self._home = home

    def command(self, port: int) -> list[str]:
        root = Path(__file__).resolve().parents[2]
        return [sys.executable, "-c", _EMBEDDED, str(root), "engine", "--port", str(port), "--home", str(self._home)]
