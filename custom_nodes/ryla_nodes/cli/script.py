"""The program ``ryla`` for ``scripts/``: of a clone or an unpacked archive, whose packages may not be installed yet."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import commands

_ROOT = Path(__file__).resolve().parents[3]


def run(*words: str) -> None:
    """Run ``ryla WORDS``; the process ends with its exit status, or with the command that brings what is missing."""
    sys.argv[1:] = words
    commands.speak(commands.Scripts(sys.executable, str(_ROOT / "scripts")))
    try:
        _mean_the_comfyui_around()
        from .app import main

        main()
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("ryla_nodes"):
            raise
        sys.exit(f"{error}. Next: {commands.pip('-r', str(_ROOT / 'requirements.txt'))}")


def _mean_the_comfyui_around() -> None:
    """A pack in a ComfyUI's custom_nodes works on that one, wherever its scripts are started."""
    from ..models.workspace import enclosing_comfyui

    around = enclosing_comfyui(_ROOT)
    if around is not None:
        os.environ.setdefault("RYLA_COMFYUI", str(around))
