"""An embedded engine with the nodes of the parity tests, and the few requests that the tests make of it."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import ryla_nodes
from ryla_nodes.engines.embedded.files import EngineFiles
from ryla_nodes.engines.embedded.server.server import EngineServer
from websockets.sync.client import ClientConnection, connect

PACK = Path(__file__).resolve().parents[1] / "comfyui" / "packs" / "ryla_test_engine_nodes.py"
TERMINAL = ("execution_success", "execution_error", "execution_interrupted")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


nodes = _load(PACK)


class Asks:
    """The requests that the tests make of an engine at ``url`` whose files are ``files``."""

    url: str
    files: EngineFiles
    http: httpx.Client

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def submit(self, graph: Mapping[str, Any], **fields: Any) -> httpx.Response:
        """POST /prompt as it is; the caller looks at the status."""
        return self.http.post("/prompt", json={"prompt": graph, **fields})

    def accept(self, graph: Mapping[str, Any], **fields: Any) -> str:
        """Submit a graph that must be accepted without any error, and return its id."""
        answer = self.submit(graph, **fields)
        assert answer.status_code == 200, answer.text
        assert answer.json()["node_errors"] == {}, answer.text
        return str(answer.json()["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 20) -> dict[str, Any]:
        """The history entry of a job, once it has one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return dict(entry)
            time.sleep(0.005)
        raise AssertionError(f"{prompt_id} did not end within {timeout} s")

    def run(self, graph: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Run a graph to its end, whichever it is."""
        return self.wait(self.accept(graph, **fields))

    def succeed(self, graph: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """Run a graph that must succeed, and return its outputs by node id."""
        entry = self.run(graph, **fields)
        assert entry["status"]["status_str"] == "success", entry["status"]
        return dict(entry["outputs"])

    def wait_until_running(self, prompt_id: str) -> None:
        for _ in range(1000):
            if any(job[1] == prompt_id for job in self.get("/queue")["queue_running"]):
                return
            time.sleep(0.005)
        raise AssertionError(f"{prompt_id} does not run")

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def connect(self) -> socket.socket:
        """A bare connection, for requests that no library sends."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str | bytes) -> Answer:
        """A request as it is given; underscores in the names of headers are dashes."""
        given: dict[str, str | bytes] = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        given["Content-Length"] = str(len(body))
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1".encode()]
        for name, value in given.items():
            lines.append(name.encode() + b": " + (value if isinstance(value, bytes) else value.encode()))
        return self.send_bytes(b"\r\n".join([*lines, b"", body]))

    def send_bytes(self, request: bytes) -> Answer:
        """Send bytes and take one answer, as long as it says that it is, or what there is when the engine closes."""
        with self.connect() as connection:
            answer = b""
            try:
                connection.sendall(request)
                while not _is_whole(answer, request) and (data := connection.recv(1 << 16)):
                    answer = _final(answer + data)
            except ConnectionError:
                pass  # the engine need not read what it refuses
            return Answer(answer)

    def leaks(self, answer: bytes) -> list[bytes]:
        """What an answer tells of this machine: paths of the engine, of its code and of Python, and tracebacks."""
        own = (str(self.files.home), str(Path(ryla_nodes.__file__).parent), sys.prefix, sys.base_prefix)
        tells = [path.encode() for path in own] + [b"Traceback", b'File \\"', b'File "']
        return [each for each in tells if each in answer]

    def listen(self, client_id: str, **options: Any) -> ClientConnection:
        """Open the websocket of a client."""
        # Without a limit on unread messages, which would keep a closing socket from seeing the end.
        url = f"{self.url.replace('http', 'ws')}/ws?clientId={client_id}"
        return connect(url, proxy=None, max_queue=None, **options)


class Engine(EngineServer, Asks):
    """An embedded engine that knows the nodes of the parity tests, too."""

    def __init__(self, home: Path, *, more: Iterable[type] = (), **options: Any) -> None:
        super().__init__(home, [*nodes.NODES, *more], **options)
        self.http = httpx.Client(timeout=30, trust_env=False)

    def start(self) -> Engine:
        super().start()
        self.http.base_url = httpx.URL(self.url)
        return self

    def stop(self) -> None:
        self.http.close()
        super().stop()


class Answer(bytes):
    """The bytes of an answer of the engine, or none."""

    @property
    def status(self) -> int:
        """0 when the engine closed the connection instead."""
        return int(self[9:12] or 0)

    @property
    def error(self) -> str:
        """The type of the error in its body, or the code of ours."""
        error = json.loads(self.partition(b"\r\n\r\n")[2])["error"]
        return str(error.get("type") or error["code"])


def _final(answer: bytes) -> bytes:
    """What has come of the answer behind an interim 100."""
    return answer.partition(b"\r\n\r\n")[2] if re.match(rb"HTTP/1.1 100 .*\r\n\r\n", answer) else answer


def _is_whole(answer: bytes, request: bytes) -> bool:
    """Whether no more of an answer comes; of an upgraded connection nothing more is wanted."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    return length is None or len(body) >= int(length[1]) or request.startswith(b"HEAD ")


def message(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The data of the first status message of a kind."""
    return next(dict(data) for event, data in entry["status"]["messages"] if event == kind)


def until_idle(socket: ClientConnection, prompt_id: str) -> list[dict[str, Any]]:
    """All messages up to the ``executing: null`` that ends a job."""
    messages = []
    while True:
        messages.append(json.loads(socket.recv(timeout=10)))
        data = messages[-1]["data"]
        if messages[-1]["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
            return messages


def new_id() -> str:
    return str(uuid.uuid4())


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a graph."""
    return {"class_type": class_type, "inputs": inputs}


def picture(color: int = 0xFF0000, prefix: str = "test", size: int = 16) -> dict[str, Any]:
    """EmptyImage -> ImageInvert -> SaveImage."""
    return {
        "1": node("EmptyImage", width=size, height=size, batch_size=1, color=color),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("SaveImage", images=["2", 0], filename_prefix=prefix),
    }


def slow(steps: int = 500, text: str = "done") -> dict[str, Any]:
    """A job of ``steps`` hundredths of a second."""
    return {"1": node("RylaTest_Slow", steps=steps, text=text), "2": node("RylaTest_Show", value=["1", 0])}
