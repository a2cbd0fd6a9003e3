"""comfy-cli, as the tool that it is: its verdict on a graph, and its way from the editor's format back to the API's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ryla_nodes.workflows import object_info


def find() -> str:
    """The ``comfy`` program: ``COMFY_CLI``, else on PATH, else beside this Python; skips (or fails) without one."""
    beside = shutil.which("comfy", path=str(Path(sys.executable).parent))
    found = os.environ.get("COMFY_CLI") or shutil.which("comfy") or beside
    if not found:
        pytest.skip(
            "No comfy-cli found: pip install 'ryla-nodes[comfy]', put `comfy` into PATH or name it in COMFY_CLI."
        )
    return found


def accepts(command: str, graph: Path, version: str) -> bool:
    """Whether ``comfy workflow validate`` passes a graph against a recorded ComfyUI."""
    recording = Path(object_info.__file__).parent / "recorded" / f"{version}.json"
    envelope = _run(command, "workflow", "validate", "--workflow", str(graph), "--input", str(recording))
    return bool(envelope["ok"])


def to_api(command: str, ui_file: Path, version: str) -> dict[str, Any]:
    """The API graph that comfy-cli would submit for an editor file to an engine with the recorded node classes."""
    with _engine(json.dumps(object_info.recorded(version)).encode()) as port:
        address = ("--host", "127.0.0.1", "--port", str(port))
        envelope = _run(command, "run", "--print-prompt", "--workflow", str(ui_file), *address)
    prompt: dict[str, Any] = envelope["data"]["prompt"]
    return prompt


def _run(command: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([command, "--json", *arguments], capture_output=True, text=True, timeout=60)
    envelope: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert envelope["ok"] == (done.returncode == 0), done.stderr
    return envelope


@contextmanager
def _engine(object_info: bytes) -> Iterator[int]:
    """A server that knows /object_info and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.endswith("/object_info")
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(object_info) if known else 0))
            self.end_headers()
            self.wfile.write(object_info if known else b"")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
