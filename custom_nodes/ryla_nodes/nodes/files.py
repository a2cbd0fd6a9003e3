"""The files that a node means in the engine it runs in, and what tells that they were replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..engines.protocol import current_engine
from ..models.identity_files import IdentitySearch


def identity_search() -> IdentitySearch:
    """The search for SDXL's, InstantID's and the face models in the engine's folders, then its own small ones."""
    engine = current_engine()
    return IdentitySearch(engine.folders(), engine.default_identity())


def file_state(path: Path) -> tuple[str, int, int]:
    """What changes when a file is replaced: path, mtime in nanoseconds, size in bytes."""
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


def fingerprint(state: object) -> str:
    """A digest of ``state``: ComfyUI stores fingerprints in the pictures, where local paths have no place."""
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]
