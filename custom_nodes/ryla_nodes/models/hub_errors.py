"""Say in our words what went wrong between us and a server of files."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RylaError
from ..files import FULL
from .catalogue import HubSource, Source

RANGE_NOT_SATISFIABLE = 416
FORBIDDEN = 403

_PASSING_STATUS = frozenset({408, RANGE_NOT_SATISFIABLE, 425, 429, 500, 502, 503, 504})
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_LONGEST_ANSWER = 300
_GATED = re.compile(r"gated|restricted|authori[sz]ed|licen[sc]e|access", re.IGNORECASE)
_TOKENS = "https://huggingface.co/settings/tokens"


def network_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises: its own errors and those of its HTTP library, whichever that is."""
    from huggingface_hub.utils import HfHubHTTPError  # type: ignore[attr-defined]

    return (OSError, *HfHubHTTPError.__bases__)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    status = status_of(error)
    if status is not None:
        return status in _PASSING_STATUS
    return not (isinstance(error, OSError) and error.errno in FULL | _NOT_WRITABLE) and not _is_offline(error)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, or None."""
    response = getattr(error, "response", None)
    return int(response.status_code) if response is not None else None


@contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn the library's errors into ours."""
    try:
        yield
    except RylaError:
        raise
    except network_errors() as error:
        raise explain(error, source) from error


@contextmanager
def xet_may_fail() -> Iterator[None]:
    """Xet is an optimisation: whatever it meets on the network, the plain download is tried next."""
    from huggingface_hub import errors

    failure = getattr(errors, "XetDownloadError", RuntimeError)
    try:
        yield
    except (RuntimeError, failure, *network_errors()) as error:
        if isinstance(error, OSError) and error.errno in FULL | _NOT_WRITABLE:
            raise


def explain(error: Exception, source: Source) -> RylaError:
    """The registry's error for what the library raised: ``gated_model``, ``invalid_token``, ``remote_missing``,
    ``offline``, ``disk_full``, ``not_writable`` or ``download_failed``."""
    status = status_of(error)
    if status is not None:
        return _of_status(error, status, source)
    if _is_offline(error):
        return RylaError("offline", f"HF_HUB_OFFLINE is set and {source} is not on this machine.", source=str(source))
    if isinstance(error, OSError) and error.errno in FULL:
        return RylaError("disk_full", f"The disk is full while {source} is fetched.", source=str(source))
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        return RylaError("not_writable", f"{error.filename} cannot be written: {error.strerror}.", path=error.filename)
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return RylaError("download_failed", f"{source} could not be fetched: {reason[0]}", source=str(source))


def _is_offline(error: BaseException) -> bool:
    from huggingface_hub import constants

    return isinstance(error, ConnectionError) and constants.HF_HUB_OFFLINE


def _of_status(error: Exception, status: int, source: Source) -> RylaError:
    from huggingface_hub.utils import GatedRepoError  # type: ignore[attr-defined]

    code, said = _header(error, "X-Error-Code"), _header(error, "X-Error-Message")
    if isinstance(error, GatedRepoError):
        return _gated(status, source, said)
    if status == FORBIDDEN and isinstance(source, HubSource):
        return _forbidden(source, said, _header(error, "Server"))
    if status == 401 and code != "RepoNotFound":
        return RylaError(
            "invalid_token",
            f"The server does not accept the token for {source} (401{_quoted(said)}).",
            hint=f"Make a new token at {_TOKENS} and set HF_TOKEN.",
            source=str(source),
        )
    if status in (401, 404, 410):
        what = {"RevisionNotFound": "the pinned revision", "EntryNotFound": "the file"}.get(code, "the repository")
        return RylaError(
            "remote_missing", f"{source} is not there: {what} was not found ({status}).", source=str(source)
        )
    line = f"{source} could not be fetched: HTTP {status}{_quoted(said)}."
    return RylaError("download_failed", line, source=str(source))


def _forbidden(source: HubSource, said: str, server: str) -> RylaError:
    """A 403 that the hub does not call gated: a token's rights, a licence that only the catalogue knows of, a proxy."""
    if "token" in said.casefold():
        return RylaError(
            "invalid_token",
            f"{source} was refused for what the token may do (403{_quoted(said)}).",
            hint=f"Change the token's rights at {_TOKENS} (or set HF_TOKEN to another) and run the same command.",
            source=str(source),
        )
    if source.gated and (not said or _GATED.search(said)):
        return _gated(FORBIDDEN, source, said)
    by = f" by {server}" if server and not said else ""
    return RylaError(
        "download_failed",
        f"{source} was refused{by} (403{_quoted(said)}).",
        hint="A proxy on the way, or the token, may refuse it: try without HF_TOKEN, and check HTTPS_PROXY.",
        source=str(source),
    )


def _gated(status: int, source: Source, said: str = "") -> RylaError:
    page = f"https://huggingface.co/{source.repo}" if isinstance(source, HubSource) else str(source)
    lack = "no valid token was sent" if status == 401 else "the account of the token has no access yet"
    return RylaError(
        "gated_model",
        f"{source} is gated: {lack} ({status}{_quoted(said)}).",
        hint=f"Open {page}, accept the licence, make a token at {_TOKENS}, set HF_TOKEN and run the same command.",
        source=str(source),
        page=page,
    )


def _header(error: Exception, name: str) -> str:
    """A header of the answer behind an error, on one line."""
    response = getattr(error, "response", None)
    return " ".join(str(response.headers.get(name, "")).split())[:_LONGEST_ANSWER] if response is not None else ""


def _quoted(said: str) -> str:
    return f": {said!r}" if said else ""
