"""Local pictures that jobs need elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import RylaError


def read(path: Path, sha256: str = "") -> tuple[bytes, str]:
    """A picture's bytes and their SHA-256.

    Args:
        sha256: the digest that they must have; "" for any.

    Raises:
        RylaError: ``unreadable_file``, ``input_changed``.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror}.", path=str(path)) from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 not in ("", digest):
        message = f"{path} was changed after this job had been planned with it."
        raise RylaError("input_changed", message, path=str(path))
    return data, digest
