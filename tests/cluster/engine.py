"""The fake engine as a process of its own, for replicas to supervise: ``engine.py PORT FOLDER``.

``FOLDER/starts`` gets a line for each job that an engine begins, "PROMPT_ID PID LORA"; ``FOLDER/faults``, or
``FOLDER/faults.PID`` for one engine, says what goes wrong, a fault a line; ``FOLDER/seconds`` how long a job takes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from unit.fake_engine import FakeEngine
from unit.fake_engine_parts import jpeg


class Starts(list[str]):
    """A list whose additions are written down; one write each, so that engines do not mix their lines."""

    def __init__(self, path: Path, engine: FakeEngine) -> None:
        super().__init__()
        self._path, self._engine = path, engine

    def append(self, prompt_id: str) -> None:
        super().append(prompt_id)
        graph = next((job.graph for job in self._engine.running if job.prompt_id == prompt_id), {})
        loras = [str(node["inputs"].get("lora_id", "")) for node in graph.values()]
        with self._path.open("a") as file:
            file.write(f"{prompt_id} {os.getpid()} {''.join(loras)}\n")


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class Told(FakeEngine):
    """Takes for each job as long as ``FOLDER/seconds`` says when it begins."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        super().__init__(port=port, make=jpeg)

    @property  # type: ignore[override]
    def seconds(self) -> float:
        return float(read(self._folder / "seconds") or 0.05)

    @seconds.setter
    def seconds(self, value: float) -> None:
        """What it was made with does not count."""


def main() -> None:
    """Serve until the process is ended."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    if "no start" in read(folder / "faults"):
        sys.stderr.write("loading the model\nRuntimeError: no kernel image is available\n")
        sys.exit(3)
    engine = Told(folder, port)
    engine.started = Starts(folder / "starts", engine)
    with engine:
        while True:
            time.sleep(0.05)
            engine.faults = {*read(folder / "faults").split("\n"), *read(folder / f"faults.{os.getpid()}").split("\n")}
            if "crash" in engine.faults:
                sys.stderr.write("Segmentation fault (core dumped)\n")
                sys.stderr.flush()
                os._exit(139)


if __name__ == "__main__":
    main()
