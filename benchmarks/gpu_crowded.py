"""Full-size FLUX.1 Dev where the card is not ours alone: 24 GB of it, and two ComfyUIs side by side.

    python benchmarks/gpu_crowded.py --comfyui /path/to/ComfyUI --weights make [--row small --row pair]

Rows, each of which runs alone:
    small  ComfyUI is told to leave all but --gigabytes of the card to others: all modes in turn, seconds, error of the
           latent against `off`, memory used, and what the speed node says
    pair   two ComfyUIs on the card, one volume for both, pictures in `fast` and `exact` at the same time; both must
           paint the same

With the environment variable OUT set, crowded.json and ComfyUI's logs are left in that folder.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from device_memory import device_memory_gb
from gpu_speed import MODES, Bench, graph, picture
from gpubench import Rows, add_picture, models_of, parser_of, run

_SEEDS = (1, 2)


def row_small(bench: Bench) -> None:
    """All modes in one ComfyUI that has a part of the card."""
    total = device_memory_gb("total")
    if total is not None:
        reserved = total * 1e9 / 2**30 - bench.options.gigabytes  # ComfyUI counts in GiB.
        bench.options.engine_argument += ["--reserve-vram", str(round(reserved, 1))]
    engine = bench.start("small")
    try:
        kept: Any = None
        for mode in MODES:
            made = [picture(engine, graph(bench.options, mode, seed)) for seed in _SEEDS]
            latent = made[-1][2]
            kept = latent if kept is None else kept
            bench.add({
                "row": "small", "mode": mode, "gigabytes": bench.options.gigabytes,
                "seconds": [round(one[0], 2) for one in made],
                "latent_error": round(float((latent - kept).norm() / kept.norm()), 5),
                "device_gb": device_memory_gb(), "said": made[-1][3],
                "offloaded": "loaded partially" in engine.log,
            })  # fmt: skip
    finally:
        bench.stop(engine, "small")


def row_pair(bench: Bench) -> None:
    """Two ComfyUIs that share the card and the volume."""
    with ThreadPoolExecutor(2) as pool:
        engines = list(pool.map(bench.start, ("left", "right")))
        try:
            for mode in ("fast", "exact"):
                for seed in _SEEDS:
                    made = graph(bench.options, mode, seed)
                    both = list(pool.map(lambda engine, made=made: picture(engine, made), engines))
                    bench.add({
                        "row": "pair", "mode": mode, "seconds": [round(one[0], 2) for one in both],
                        "equal": bool((both[0][2] == both[1][2]).all()), "device_gb": device_memory_gb(),
                        "said": [one[3] for one in both],
                    })  # fmt: skip
        finally:
            for engine, name in zip(engines, ("left", "right"), strict=True):
                bench.stop(engine, name)


def main() -> None:
    parser = parser_of(__doc__)
    add_picture(parser)
    parser.add_argument("--row", action="append", choices=("small", "pair"), help="repeatable; all when left out")
    parser.add_argument("--gigabytes", type=float, default=24.0)
    options: argparse.Namespace = parser.parse_args()
    bench = Bench(options, models_of(options))
    bench.rows = Rows("crowded")
    run(options.row, {"pair": partial(row_pair, bench), "small": partial(row_small, bench)})
    bench.rows.show()


if __name__ == "__main__":
    main()
