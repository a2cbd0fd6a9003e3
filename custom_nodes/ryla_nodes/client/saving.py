"""Pictures to files: whole or not at all, under the name that was asked for, in the format that its suffix says."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ..errors import RylaError
from .pictures import SUFFIXES, Format, Picture

_PIL_NAMES = {Format.JPEG: "JPEG", Format.PNG: "PNG", Format.WEBP: "WEBP", Format.GIF: "GIF"}
_QUALITY = 95
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def check_target(path: Path) -> None:
    """Refuse a path that cannot be written, before anything is run for it. Nothing is left behind.

    Raises:
        RylaError: ``invalid_output_path``, ``output_folder_missing``, ``output_not_writable``, ``disk_full``.
    """
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise RylaError("invalid_output_path", f"{path} has a suffix that is none of {known}.", path=str(path))
    if path.is_dir():
        raise RylaError("invalid_output_path", f"{path} is a folder; name a file in it.", path=str(path))
    part = _part(path)
    try:
        part.touch()
    except OSError as error:
        _refuse(path, error)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def save(pictures: Sequence[Picture], path: Path) -> list[Path]:
    """Write the first picture to ``path`` and others beside it as ``name-2.jpg``, ``name-3.jpg`` ...

    A path without a suffix gets the picture's own. One with another format's suffix gets a converted picture (JPEG and
    WebP at quality 95; PNG loses nothing): a picture that was made is never thrown away for its name.

    Raises:
        RylaError: as ``check_target``; no half-written file is left.
    """
    targets = [
        path if index == 0 else path.with_name(f"{path.stem}-{index + 1}{path.suffix}")
        for index in range(len(pictures))
    ]
    return [_save(picture, target) for picture, target in zip(pictures, targets, strict=True)]


def converted(picture: Picture, path: Path) -> bool:
    """Whether ``save`` has to change the picture's format for this path."""
    return bool(path.suffix) and SUFFIXES.get(path.suffix.lower()) is not picture.format


def _save(picture: Picture, path: Path) -> Path:
    if not path.suffix:
        path = path.with_name(f"{path.name}.{picture.format.value}")
    write(path, _encode(picture.data, SUFFIXES[path.suffix.lower()]) if converted(picture, path) else picture.data)
    return path


def write(path: Path, data: bytes) -> None:
    """Write a file so that at every moment it is absent, old or whole.

    Raises:
        RylaError: ``invalid_output_path``, ``output_folder_missing``, ``output_not_writable``, ``disk_full``.
    """
    part = _part(path)
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        _refuse(path, error)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")


def _encode(data: bytes, kind: Format) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        image.load()
        plain = image if kind is not Format.JPEG or image.mode in ("RGB", "L") else image.convert("RGB")
        out = io.BytesIO()
        plain.save(out, _PIL_NAMES[kind], quality=_QUALITY)
        return out.getvalue()


def _refuse(path: Path, error: OSError) -> NoReturn:
    facts = {"path": str(path), "reason": error.strerror or str(error)}
    folder = path.parent
    if error.errno in _FULL:
        raise RylaError("disk_full", f"{path} does not fit on its disk ({facts['reason']}).", **facts) from error
    if error.errno in _ABSENT and not folder.is_dir():
        hint = f"mkdir -p {folder}"
        raise RylaError("output_folder_missing", f"The folder {folder} does not exist.", hint=hint, **facts) from error
    if error.errno in (errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL):
        raise RylaError("invalid_output_path", f"{path} cannot be a file: {facts['reason']}.", **facts) from error
    raise RylaError("output_not_writable", f"{path} cannot be written: {facts['reason']}.", **facts) from error
