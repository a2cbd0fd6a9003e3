"""The program ``ryla`` for ``scripts/``: of a clone or an unpacked archive, whose packages may not be installed yet."""

from __future__ import annotations

import sys
from pathlib import Path

_REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements.txt"


def run(*words: str) -> None:
    """Run ``ryla WORDS``; the process ends with its exit status, or with the command that brings what is missing."""
    sys.argv[1:] = words
    try:
        from .app import main

        main()
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("ryla_nodes"):
            raise
        sys.exit(f"{error}. Next: {sys.executable} -m pip install -r {_REQUIREMENTS}")
