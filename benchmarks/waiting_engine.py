"""The embedded engine with a node that waits instead of computing: ``waiting_engine.py PORT HOME LOG``.

``BenchWait`` hands a picture on after ``seconds``; ``LOG`` gets a line when it begins and when it ends, with its tag.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.engines.schema import io
from ryla_nodes.nodes import node_classes

LOG = Path(sys.argv[3]) if len(sys.argv) > 3 else Path("/dev/null")


def note(word: str, tag: str) -> None:
    """One write a line: several engines share the file."""
    with LOG.open("a") as file:
        file.write(f"{word} {tag}\n")


class BenchWait(io.ComfyNode):
    """A picture, later."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BenchWait",
            display_name="Wait",
            category="bench",
            inputs=[
                io.Image.Input("image"),
                io.Float.Input("seconds", default=1.0),
                io.String.Input("tag", default=""),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: Any, seconds: float, tag: str) -> io.NodeOutput:
        note("begin", tag)
        time.sleep(seconds)
        note("end", tag)
        return io.NodeOutput(image)


def main() -> None:
    """Serve until SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with EngineServer(Path(sys.argv[2]), [*node_classes(), BenchWait], int(sys.argv[1]), "127.0.0.1"):
        stop.wait()


if __name__ == "__main__":
    main()
