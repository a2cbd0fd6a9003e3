"""What our pack adds to ComfyUI's start, beside an empty pack: `COMFYUI_PATH=... COMFYUI_PYTHON=... bench_import.py`.

Each figure is a process of its own that has ComfyUI's modules imported already. Without COMFYUI_PATH the package is
imported outside ComfyUI (as `ryla` does). Ends with 1 when the median is over the budget.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PACK = Path(__file__).resolve().parents[1] / "custom_nodes" / "ryla_nodes"
BUDGET = 0.15
RUNS = 5

INSIDE = """
import asyncio, sys, time
comfyui, pack = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.enable_args_parsing()
import nodes, comfy_config.config_parser
began = time.perf_counter()
assert asyncio.run(nodes.load_custom_node(pack))
print(time.perf_counter() - began, *sorted({n.partition(".")[0] for n in sys.modules} & {"PIL", "torch", "httpx"}))
"""
OUTSIDE = """
import sys, time
sys.path.insert(0, sys.argv[2].rpartition("/")[0])
began = time.perf_counter()
import ryla_nodes.extension
ryla_nodes.nodes.node_classes()
print(time.perf_counter() - began)
"""
EMPTY = """
from comfy_api.latest import ComfyExtension


class Empty(ComfyExtension):
    async def get_node_list(self):
        return []


def comfy_entrypoint():
    return Empty()
"""


def seconds(code: str, python: str, comfyui: str, pack: Path) -> float:
    """The time that loading ``pack`` takes in a new process, which prints it last: ComfyUI's modules may print too."""
    command = [python, "-c", code, comfyui, str(pack)]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir(), env=environ)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout.splitlines()[-1].split()[0])


def median(name: str, code: str, python: str, comfyui: str, pack: Path) -> float:
    runs = [seconds(code, python, comfyui, pack) for _ in range(RUNS + 1)][1:]  # The first compiles byte-code.
    print(
        f"{name}: median {statistics.median(runs) * 1000:.1f} ms of {RUNS} "
        f"({min(runs) * 1000:.1f} to {max(runs) * 1000:.1f})"
    )
    return statistics.median(runs)


def main() -> None:
    comfyui = os.environ.get("COMFYUI_PATH")
    if comfyui is None:
        sys.exit(median("ryla_nodes outside ComfyUI", OUTSIDE, sys.executable, "", PACK) > BUDGET)
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "__init__.py").write_text(EMPTY)
        median("an empty pack", INSIDE, python, comfyui, Path(folder))
    sys.exit(median("ryla_nodes", INSIDE, python, comfyui, PACK) > BUDGET)


if __name__ == "__main__":
    main()
