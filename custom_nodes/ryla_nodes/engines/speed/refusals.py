"""Blocks that cannot be compiled ahead here: a note in the place of the package, so that it is not tried each time.

Its name is that of the package, which PyTorch, the GPU and the code are part of: with another of those it is forgotten.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...files import write_whole

_SUFFIX = ".refused"


def is_refused(path: Path) -> bool:
    """Whether the package at ``path`` could not be made."""
    return path.with_suffix(_SUFFIX).is_file()


def note(path: Path, facts: Mapping[str, Any], reason: str) -> None:
    """Note why there is no package at ``path``."""
    about = {"reason": reason, "torch": torch.__version__, "facts": facts}
    try:
        write_whole(path.with_suffix(_SUFFIX), json.dumps(about, indent=1).encode())
    except OSError as error:
        logging.warning("ryla: %s cannot be noted: %s", path.with_suffix(_SUFFIX), error)
