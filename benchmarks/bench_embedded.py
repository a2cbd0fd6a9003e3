"""A picture by the embedded engine's own models: seconds of the whole command, beside a plain diffusers pipeline.

`bench_embedded.py [REPEATS]`: 128x128 in 4 steps within 3 s and 512x512 in 20 steps within 15 s, on two cores. Every
run is a process of its own: start of the program, imports, loading, painting, saving. Told are the best of REPEATS
(default 3) and the processor time of that run. Ends with 1 over a budget.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "custom_nodes"
# size, steps, budget in seconds
ROWS = ((128, 4, 3.0), (512, 20, 15.0))
PROMPT = "a portrait of a person, tan skin, long red hair, round glasses, a purple hat, sky blue background"

Seconds = tuple[float, float]


def run(command: Sequence[str], home: str) -> Seconds:
    """Wall and processor seconds of a process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "RYLA_HOME": home, "PYTHONPATH": str(PACKAGE)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(size: int, steps: int, folder: str) -> list[str]:
    main = "from ryla_nodes.cli.app import main; main()"
    values = ("--width", size, "--height", size, "--steps", steps, "--seed", 7, "--prompt", PROMPT)
    words = ("run", "flux-dev", "--engine", "embedded", *values, "-o", f"{folder}/ours.png")
    return [sys.executable, "-c", main, *map(str, words)]


def plain(size: int, steps: int, folder: str) -> list[str]:
    words = (HERE / "plain_diffusers.py", PROMPT, size, steps, f"{folder}/plain.png")
    return [sys.executable, *map(str, words)]


def main() -> int:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    late = False
    print(f"{'':<22}{'ryla run':>10}{'processor':>11}{'diffusers':>11}{'processor':>11}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for size, steps, budget in ROWS:
            (wall, used), (beside, beside_used) = (
                min(run(command(size, steps, folder), folder) for _ in range(repeats)) for command in (ours, plain)
            )
            late |= wall > budget
            figures = f"{wall:8.2f} s{used:9.2f} s{beside:9.2f} s{beside_used:9.2f} s{wall / beside:7.2f}"
            print(f"{f'{size}x{size}, {steps} steps':<22}{figures}{f'  over {budget} s' if wall > budget else ''}")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
