"""What the benchmarks for a GPU share: their options, the weights that they make once, and rows of figures."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "custom_nodes"))

from ryla_nodes import settings  # noqa: E402

Row = dict[str, Any]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's source tree")
    parser.add_argument("--python", default=sys.executable, help="ComfyUI's Python, if not this one")
    parser.add_argument("--weights", required=True, help="`make`, or a folder laid out like ComfyUI's models/")
    parser.add_argument("--work", type=Path, default=Path("/tmp/ryla-gpu"), help="for weights, logs and pictures")
    parser.add_argument("--engine-argument", action="append", default=[], help="argument for ComfyUI, repeatable")
    parser.add_argument("--pack", action="append", default=[], type=Path, help="further node pack, repeatable")
    parser.add_argument("--cpu", action="store_true", help="for a try with small weights")
    return parser


def add_picture(parser: argparse.ArgumentParser) -> None:
    """The options of a picture."""
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)


def models_of(options: argparse.Namespace, makers: Sequence[str] = ("flux_weights.py",)) -> Path:
    """The folder of the weights; those of ``makers`` are made there when they are to be, side by side, and once."""
    options.work.mkdir(parents=True, exist_ok=True)
    if options.weights != "make":
        return Path(options.weights)
    models: Path = options.work / "models"
    missing = [maker for maker in makers if not _mark(models, maker).exists()]
    commands = {maker: [options.python, str(HERE / maker), str(options.comfyui), str(models)] for maker in missing}
    running = {maker: subprocess.Popen(command) for maker, command in commands.items()}
    try:
        for maker, process in running.items():
            if process.wait():
                sys.exit(f"{' '.join(commands[maker])} ended with {process.returncode}")
            _mark(models, maker).touch()
    finally:
        for process in running.values():
            process.kill()
    return models


def _mark(models: Path, maker: str) -> Path:
    """There when all that a maker makes is whole."""
    return models / f".{maker}.made"


def wait_for_packages(volume: Path, modes: Sequence[str], log: Callable[[], str], seconds: float = 240) -> None:
    """Wait until a process that ran ``modes`` has compiled both kinds of blocks ahead for the next one.

    ``log`` gives the process's log, where it says when it cannot; then, and after ``seconds``, that is printed. With
    RYLA_AHEAD=0 there is nothing to wait for.
    """
    if not settings.load().ahead:
        return
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        found = [json.loads(path.read_bytes())["facts"]["mode"] for path in volume.glob("cache/inductor-*/*.json")]
        if all(found.count(mode) >= 2 for mode in modes):
            print(
                f"blocks of {' and '.join(modes)} compiled ahead after {time.perf_counter() - began:.1f} s", flush=True
            )
            return
        if "not compiled ahead" in log():
            break
        time.sleep(0.5)
    print(f"blocks of {' and '.join(modes)} were not compiled ahead:\n{log()[-2000:]}", flush=True)


class Rows:
    """Figures as they come: printed, and kept as NAME.json in the folder that OUT names, if it names one."""

    def __init__(self, name: str) -> None:
        self.found: list[Row] = []
        self._file = Path(os.environ["OUT"], f"{name}.json") if "OUT" in os.environ else None

    def add(self, row: Row) -> None:
        self.found.append(row)
        print(json.dumps(row), flush=True)
        if self._file:
            self._file.write_text(json.dumps(self.found, indent=1))

    def show(self) -> None:
        """Rows of one kind below each other."""
        for kind in dict.fromkeys(row["row"] for row in self.found):
            print(f"\n{kind}")
            for row in (row for row in self.found if row["row"] == kind):
                print("  " + "  ".join(f"{key}={value}" for key, value in row.items() if key not in ("row", "kernels")))
                for name, calls, milliseconds in row.get("kernels", [])[:16]:
                    print(f"    {milliseconds:8.2f} ms {calls:5d}  {name}")


def run(names: Sequence[str] | None, rows: Mapping[str, Callable[[], None]]) -> None:
    """Run those of ``rows`` that ``names`` has, or all, and say how long each takes."""
    for name in names or list(rows):
        began = time.perf_counter()
        rows[name]()
        print(f"{name}: {time.perf_counter() - began:.0f} s in all", flush=True)
