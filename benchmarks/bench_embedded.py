"""The small Flux on the embedded engine: seconds to load and for a picture of each size. Ends with 1 over a budget.

`bench_embedded.py`: 128x128 in 4 steps within 4 s and 512x512 in 20 steps within 20 s, loading included, on two cores.
Each row is a process of its own with the models on disk; `first use` is one that has to make them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "custom_nodes"
# size, steps, budget in seconds for all of the process
ROWS = ((128, 4, 4.0), (512, 20, 20.0))

INSIDE = """
import sys, time
began = time.perf_counter()
from pathlib import Path
home, package, size, steps = sys.argv[1:]
sys.path.insert(0, package)
from ryla_nodes.host.embedded.host import DiffusersHost
from ryla_nodes.models.folders import ModelFolders
host = DiffusersHost(Path(home), ModelFolders({}))
files = host.default_flux()
made = time.perf_counter()
model, clip, vae = host.load_flux(files, "default")
loaded = time.perf_counter()
import torch
from ryla_nodes.host.embedded.sampling import Job, sample
prompt = clip.encode(clip.tokenize("a lighthouse on a cliff at dusk"), guidance=3.5)
empty = {"samples": torch.zeros(1, 16, int(size) // 8, int(size) // 8)}
latent = sample(model, Job(7, int(steps), 1.0, "euler", "simple"), prompt, prompt, empty, lambda done, steps: None)
sampled = time.perf_counter()
assert float(vae.decode(latent["samples"]).std()) > 0.1
print(made - began, loaded - made, sampled - loaded, time.perf_counter() - sampled)
"""


def measure(home: str, size: int, steps: int) -> tuple[float, ...]:
    """Seconds of: finding or making the models, imports and loading, text and sampling, decoding."""
    command = [sys.executable, "-c", INSIDE, home, str(PACKAGE), str(size), str(steps)]
    return tuple(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))


def main() -> int:
    late = False
    print(f"{'':<24}{'models':>8}{'load':>8}{'sample':>8}{'decode':>8}{'total':>8}")
    with tempfile.TemporaryDirectory() as home:
        for name, size, steps, budget in (("first use, ", *ROWS[0]), *(("", *row) for row in ROWS)):
            seconds = measure(home, size, steps)
            over = not name and sum(seconds) > budget
            late |= over
            columns = "".join(f"{value:8.2f}" for value in (*seconds, sum(seconds)))
            print(f"{f'{name}{size}x{size}, {steps} steps':<24}{columns}{f'  over {budget} s' if over else ''}")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
