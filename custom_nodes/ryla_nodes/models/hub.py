"""Fetch one file by huggingface_hub into a part file, so that a killed download goes on where it stopped.

huggingface_hub 2 itself no longer resumes in another process; its request code (redirects, retries) is used on part
files of ours. Xet, which does not resume either, is used when ``RYLA_XET`` asks for it. Works with huggingface_hub
0.19.3, the oldest that a transformers of ComfyUI's may bring, to 2.4.
"""

from __future__ import annotations

import email.utils
import importlib.util
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from .. import files, settings
from ..errors import RylaError
from ..files import Advance
from . import hub_errors
from .catalogue import HubSource, Source, UrlSource

T = TypeVar("T")

_BACKOFF = (0.5, 1.0, 2.0)
_MAX_WAIT = 300.0


@dataclass(frozen=True)
class Remote:
    """A file as a server describes it: where its bytes are, how many, and its ETag (SHA-256, or git's blob id)."""

    source: Source
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None
    etag: str | None = None
    xet: bool = False


def ask(source: Source, advance: Advance) -> Remote:
    """What the server says about a file. A plain URL is not asked beforehand. ``advance`` may raise to stop.

    Raises:
        RylaError: see ``hub_errors.explain``.
    """
    if isinstance(source, UrlSource):
        return Remote(source, source.url)
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.repo, source.path, revision=source.revision, endpoint=endpoint())
    with hub_errors.explained(source):
        metadata = _patiently(lambda: get_hf_file_metadata(url), advance)
    location = str(metadata.location or url)
    # A signed address elsewhere gets no token.
    headers = _login() if urlsplit(location).netloc == urlsplit(url).netloc else {}
    by_xet = getattr(metadata, "xet_file_data", None) is not None
    return Remote(source, location, headers, metadata.size, metadata.etag, by_xet)


def fetch(remote: Remote, part: Path, size: int | None, advance: Advance) -> None:
    """Make ``part`` the whole remote file, going on from the bytes that it already has; ``size`` is the expected one.

    ``advance`` gets the number of bytes of each block (negative when the server forces a new start) and may raise.

    Raises:
        RylaError: see ``hub_errors.explain``; ``part`` is kept for the next attempt.
    """
    _quiet()
    with hub_errors.explained(remote.source):
        by_xet = remote.xet and not part.exists() and _xet_wanted()
        if by_xet and isinstance(remote.source, HubSource) and _fetch_by_xet(remote.source, part, advance):
            return
        _patiently(lambda: _fetch_by_http(remote, part, size, advance), advance)


def _fetch_by_http(remote: Remote, part: Path, size: int | None, advance: Advance) -> None:
    from huggingface_hub.file_download import http_get

    with part.open("ab") as file:
        if size is not None and file.tell() > size:
            file.truncate(0)
        try:
            http_get(
                remote.url,
                cast(BinaryIO, _Counted(file, advance)),
                resume_size=file.tell(),
                headers=dict(remote.headers),
                expected_size=size,
            )
        except hub_errors.network_errors() as error:
            if hub_errors.status_of(error) == hub_errors.RANGE_NOT_SATISFIABLE:
                file.truncate(0)  # The server's file is no longer than what we have: start again.
            raise
    files.flush(part)


class _Counted:
    """A file that reports what is written to it."""

    def __init__(self, file: BinaryIO, advance: Advance) -> None:
        self._file = file
        self._advance = advance

    def write(self, block: bytes) -> int:
        self._advance(len(block))
        return self._file.write(block)

    def truncate(self, size: int | None = None) -> int:
        self._advance((self._file.tell() if size is None else size) - os.fstat(self._file.fileno()).st_size)
        return self._file.truncate(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _fetch_by_xet(source: HubSource, part: Path, advance: Advance) -> bool:
    """By Xet's own parallel protocol, through the hub's public download; it does not resume. False when it failed."""
    # Behind a firewall that blocks Xet's servers it would try for minutes; the plain download is the better retry.
    os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "2")
    os.environ.setdefault("RUST_LOG", "off")  # hf_xet 1.1 tells of its retries on stdout, where --json writes.
    from huggingface_hub import hf_hub_download

    staging = part.with_suffix(".xet")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with hub_errors.xet_may_fail(), _watched(staging, advance):
            done = hf_hub_download(
                source.repo, source.path, revision=source.revision, local_dir=staging, endpoint=endpoint()
            )
            Path(done).replace(part)
        return part.exists()
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _xet_wanted() -> bool:
    """Whether Xet was asked for (it does not resume) and is there."""
    from huggingface_hub import constants

    disabled = bool(getattr(constants, "HF_HUB_DISABLE_XET", False))
    return settings.load().xet and not disabled and importlib.util.find_spec("hf_xet") is not None


@contextmanager
def _watched(folder: Path, advance: Advance) -> Iterator[None]:
    """Report the growth of a folder that another library writes to."""
    done = threading.Event()

    def watch() -> None:
        seen = 0
        with suppress(RylaError):  # Cancelled: the download itself cannot be stopped from here.
            while not done.wait(0.5):
                size = sum(path.stat().st_size for path in folder.rglob("*.incomplete"))
                advance(size - seen)
                seen = size

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _patiently(call: Callable[[], T], advance: Advance) -> T:
    """Call again after what a moment may cure: 429, 5xx, a lost connection. Honours ``Retry-After``."""
    for wait in _BACKOFF:
        try:
            return call()
        except hub_errors.network_errors() as error:
            if not hub_errors.may_pass(error):
                raise
            _pause(_retry_after(error) or wait, advance)
    return call()


def _pause(seconds: float, advance: Advance) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        advance(0)
        time.sleep(min(left, 0.2))


def _retry_after(error: BaseException) -> float | None:
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    if value.isdigit():
        return min(float(value), _MAX_WAIT)
    date = email.utils.parsedate_to_datetime(value) if value else None
    return min(max(date.timestamp() - time.time(), 0.0), _MAX_WAIT) if date else None


def cached(source: Source, sha256: str | None) -> Iterator[Path]:
    """Where the hub's cache on this machine may have the file; the caller checks the bytes.

    By its hash in any repository (blobs), by its name in any revision of its own (Windows and disks without links keep
    the files there, and blobs of small files are named by another hash), or in the store that repositories share, where
    names tell nothing. Without a hash only the pinned revision counts.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if sha256 is not None:
        yield from cache.glob(f"*/blobs/{sha256}")
    if isinstance(source, HubSource):
        repository = cache / f"models--{source.repo.replace('/', '--')}" / "snapshots"
        revisions = [source.revision or ""] if sha256 is None else _names(repository)
        yield from (repository / revision / source.path for revision in revisions if revision)
    if sha256 is not None:
        yield from cache.glob("blobs/??/*")


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def has_token() -> bool:
    """Whether there is a token: ``HF_TOKEN``, or one that ``hf auth login`` stored."""
    return bool(_login())


def _login() -> dict[str, str]:
    """The header that tells who we are; empty without a token."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    return {name: value for name, value in build_hf_headers().items() if name == "authorization"}


def endpoint() -> str | None:
    """``HF_ENDPOINT`` as it is now (the library reads it once, at import)."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _quiet() -> None:
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
