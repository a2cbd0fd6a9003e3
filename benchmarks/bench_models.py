"""Hashing and copying a large file, beside ``sha256sum`` and ``cp``; reading headers.

    python benchmarks/bench_models.py [--size-gb 4] [--folder /tmp]

Each pair runs alternately, warm page cache, best of three. The goal is at most 1.3 times the tool's time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ryla_nodes import files
from ryla_nodes.models.headers import read_header
from ryla_nodes.models.identify import identify

GOAL = 1.3
ROUNDS = 3


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _compare(name: str, ours: Callable[[], object], tool: Callable[[], object]) -> bool:
    pairs = [(_seconds(ours), _seconds(tool)) for _ in range(ROUNDS)]
    best_ours, best_tool = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    ratio = best_ours / best_tool
    print(f"{name:<22} ours {best_ours:6.2f} s   tool {best_tool:6.2f} s   ratio {ratio:.2f} (goal {GOAL})")
    return ratio <= GOAL


def _make(path: Path, size: int) -> None:
    block = os.urandom(1 << 24)
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)


def _header(path: Path) -> None:
    """A header as large as an SDXL checkpoint's, over a sparse file."""
    tensors = {
        f"model.diffusion_model.input_blocks.{i}.0.weight": {
            "dtype": "F16",
            "shape": [8, 8],
            "data_offsets": [128 * i, 128 * (i + 1)],
        }
        for i in range(2500)
    }
    raw = json.dumps(tensors).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + 128 * 2500)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, target = Path(folder, "source.bin"), Path(folder, "target.bin")
        _make(source, int(arguments.size_gb * 1e9))

        def run(*command: str | Path) -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        good = _compare("SHA-256", lambda: files.sha256(source), lambda: run("sha256sum", source))
        good &= _compare("copy", lambda: files.copy(source, target), lambda: run("cp", source, target))
        _header(target)
        spent = min(_seconds(lambda: identify(read_header(target))) for _ in range(10))
        print(f"{'header, 2500 tensors':<22} ours {1000 * spent:6.2f} ms")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
