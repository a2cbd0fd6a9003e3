"""Full-size FLUX.1 on the embedded engine, on one GPU: warm sampling of 20 steps with `speed` off, exact and fast.

python benchmarks/embedded_speed.py /path/to/flux1-dev.safetensors [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "custom_nodes"))

import torch  # noqa: E402
from ryla_nodes.engines.embedded.engine import EmbeddedEngine  # noqa: E402
from ryla_nodes.engines.embedded.inference import sampling  # noqa: E402
from ryla_nodes.engines.protocol import SPEED_MODES  # noqa: E402
from ryla_nodes.models.folders import ModelFolders  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transformer", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    engine = EmbeddedEngine(Path(tempfile.mkdtemp()), ModelFolders({}))
    model = engine.load_transformer(options.transformer)
    generator = torch.Generator().manual_seed(1)
    shape = model.transformer.shape
    text = torch.randn(1, 256, shape.context, generator=generator) * 0.3
    values = {"pooled_output": torch.randn(1, shape.pooled, generator=generator), "guidance": 3.5}
    empty = {"samples": torch.zeros(1, 16, options.size // 8, options.size // 8)}
    reference: Any = None
    rows = []
    for mode in SPEED_MODES:
        faster, report = engine.accelerate(model, mode)
        seconds = []
        for seed in (3, 2, 1):
            began = time.perf_counter()
            job = sampling.Job(seed, options.steps, 1.0, "euler", "simple")
            made = sampling.sample(faster, job, [(text, values)], [(text, values)], empty, lambda done, steps: None)
            seconds.append(round(time.perf_counter() - began, 3))
        latent = made["samples"]
        reference = latent if reference is None else reference
        row = {"row": "embedded", "mode": mode, "first_s": seconds[0], "warm_s": seconds[1:], "said": report,
               "latent_error": round(float((latent - reference).norm() / reference.norm()), 5)}  # fmt: skip
        if torch.cuda.is_available():
            row["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        rows.append(row)
        print(json.dumps(row), flush=True)
        del faster
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
