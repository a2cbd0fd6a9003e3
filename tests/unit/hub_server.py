"""A local Hugging Face hub for tests: the requests that huggingface_hub really makes, with faults on demand.

``HEAD /owner/repo/resolve/revision/path`` answers as the hub does: commit, ETag, and for large files a redirect to a
storage address with the linked ETag and size. ``GET`` of the storage address honours ``Range``.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
_RESOLVE = re.compile(r"^/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")

# Where the hub says that Xet's server is: nobody listens there.
_DEAD_XET = {
    "X-Xet-Cas-Url": "http://127.0.0.1:9",
    "X-Xet-Access-Token": "token",
    "X-Xet-Token-Expiration": "4000000000",
}


@dataclass
class Fault:
    """One thing that goes wrong with a file, ``times`` times.

    Attributes:
        on: ``HEAD`` (the question) or ``GET`` (the bytes).
        status, headers: answered instead. delay: seconds before each block.
        cut_after: bytes before the connection is dropped. body: sent instead of the real bytes.
        size, etag: announced instead of the real ones. ignore_range: the whole file is sent, with 200.
    """

    on: str = "GET"
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut_after: int | None = None
    body: bytes | None = None
    size: int | None = None
    etag: str | None = None
    ignore_range: bool = False


@dataclass(frozen=True)
class Request:
    """What was asked for, and how many bytes of a file were sent."""

    method: str
    name: str
    range: str
    authorization: str
    sent: int


class Hub:
    """The hub's files, faults and request log. ``url`` is what ``HF_ENDPOINT`` is set to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.small: set[str] = set()
        self.gated: set[str] = set()
        self.xet: set[str] = set()
        self.token = "hf_right"
        self.faults: dict[str, list[Fault]] = {}
        self.requests: list[Request] = []
        self.block = 1 << 16
        self.lock = threading.Lock()
        self.url = ""

    def add(self, repo: str, path: str, content: bytes, *, small: bool = False) -> None:
        """Publish a file; a ``small`` one lives in git and has a git ETag."""
        self.files[f"{repo}/{path}"] = content
        if small:
            self.small.add(f"{repo}/{path}")

    def fail(self, name: str, *faults: Fault) -> None:
        """Let the next requests for ``owner/repo/path`` go wrong."""
        self.faults.setdefault(name, []).extend(faults)

    def take(self, name: str, method: str) -> Fault:
        """The fault of this request, used up, or one that does nothing."""
        with self.lock:
            for fault in self.faults.get(name, []):
                if fault.on == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return Fault()

    def sent(self, name: str) -> int:
        """How many bytes of a file were sent in all."""
        return sum(request.sent for request in self.requests if request.name == name)

    def etag(self, name: str) -> str:
        content = self.files[name]
        if name in self.small:
            return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return hashlib.sha256(content).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Tests look at ``hub.requests``."""

    def do_HEAD(self) -> None:
        name, stored = self._name()
        fault = self.hub.take(name, "HEAD")
        self._note("HEAD", name, 0)
        if not self._refused(name, fault) and name in self.hub.files:
            self._describe(name, fault, stored=stored)

    def do_GET(self) -> None:
        name, stored = self._name()
        fault = self.hub.take(name, "GET")
        if name == "/xet-token":
            self._note("GET", name, 0)
            self._answer(200, _DEAD_XET)
        elif self._refused(name, fault, stored=stored):
            self._note("GET", name, 0)
        elif name in self.hub.files:
            self._note("GET", name, self._send_file(name, fault))

    def _name(self) -> tuple[str, bool]:
        """The file that the address means, and whether it is a storage address."""
        path = unquote(urlsplit(self.path).path)
        if path.startswith(("/storage/", "/plain/")):
            return path.split("/", 2)[2], True
        match = _RESOLVE.match(path)
        return (f"{match['repo']}/{match['path']}", False) if match else (path, False)

    def _note(self, method: str, name: str, sent: int) -> None:
        with self.hub.lock:
            self.hub.requests.append(
                Request(method, name, self.headers.get("Range", ""), self.headers.get("Authorization", ""), sent)
            )

    def _refused(self, name: str, fault: Fault, *, stored: bool = False) -> bool:
        repo = "/".join(name.split("/")[:2])
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if fault.status is not None:
            self._answer(fault.status, fault.headers)
        elif not stored and token and not token.startswith("hf_right") and not token.startswith("hf_other"):
            self._answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif not stored and repo in self.hub.gated and token != self.hub.token:
            self._answer(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        elif not any(known.startswith(f"{repo}/") for known in self.hub.files):
            self._answer(401 if not token else 404, {"X-Error-Code": "RepoNotFound"})
        elif name not in self.hub.files:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            return False
        return True

    def _answer(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _describe(self, name: str, fault: Fault, *, stored: bool) -> None:
        size = fault.size if fault.size is not None else len(self.hub.files[name])
        etag = fault.etag or self.hub.etag(name)
        headers = {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if name in self.hub.small or stored:
            self._answer(200, {**headers, "ETag": f'"{etag}"', "Content-Length": str(size)})
            return
        if name in self.hub.xet:
            headers |= {"X-Xet-Hash": "a" * 64, "Link": f'<{self.hub.url}/xet-token>; rel="xet-auth"'}
        # Another host, as with the real storage: the token must not follow.
        location = f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{name}?signed=1"
        self._answer(302, {**headers, "Location": location, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)})

    def _send_file(self, name: str, fault: Fault) -> int:
        content = fault.body if fault.body is not None else self.hub.files[name]
        start = self._range_start() if not fault.ignore_range else 0
        if start and start >= len(content):
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"})
            return 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{self.hub.etag(name)}"')
        self.end_headers()
        end = len(content) if fault.cut_after is None else min(start + fault.cut_after, len(content))
        return self._send_blocks(content[start:end], fault, cut=end < len(content))

    def _range_start(self) -> int:
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else 0

    def _send_blocks(self, content: bytes, fault: Fault, *, cut: bool) -> int:
        sent = 0
        try:
            while sent < len(content):
                block = content[sent : sent + self.hub.block]
                time.sleep(fault.delay)
                self.wfile.write(block)
                sent += len(block)
        except OSError:
            cut = True
        if cut:
            self.close_connection = True
        return sent
