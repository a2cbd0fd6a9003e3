"""What tells that a node's files were replaced, so that it runs again."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_state(path: Path) -> tuple[str, int, int]:
    """What changes when a file is replaced: path, mtime in nanoseconds, size in bytes."""
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


def fingerprint(state: object) -> str:
    """A digest of ``state``: ComfyUI stores fingerprints in the pictures, where local paths have no place."""
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]
