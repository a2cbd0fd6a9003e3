"""Full-size FLUX.1 Dev in a real ComfyUI: `ryla run flux-dev` beside the same graph of core loaders, on one GPU.

    python benchmarks/gpu_flux.py --comfyui /path/to/ComfyUI --weights make

`--weights make` fills files of the true names, shapes and precisions with noise (34 GB; the picture is noise, the time
is real); `--weights DIR` takes a folder laid out like ComfyUI's models/. Every round starts a ComfyUI of its own; the
rounds go ours, core, core, ours, so that neither gains from its place. The last line says whether the pictures
are equal.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))

from comfyui.process import Boot, ComfyUI, Install  # noqa: E402 - the tests' way to start a ComfyUI
from gpubench import add_picture, models_of, parser_of  # noqa: E402

PROMPT = "a lighthouse on a cliff at dusk, warm light in the window"
SEEDS = (7, 8, 9, 10)
RYLA = "import sys; from ryla_nodes.cli.app import main; sys.argv[0] = 'ryla'; main()"


@dataclass
class Round:
    """One ComfyUI process: seconds of its start, its first picture and its warm ones, as the server timed them."""

    name: str
    start: float = 0.0
    first: float = 0.0
    start_to_first: float = 0.0
    warm: list[float] = field(default_factory=list)
    client_warm: list[float] = field(default_factory=list)
    vram_gb: float = 0.0
    picture: bytes = b""


def start(options: argparse.Namespace, models: Path, base: Path) -> ComfyUI:
    """A ComfyUI with our pack in it; its Python finds what this one's PYTHONPATH names."""
    environ = (("PYTHONPATH", os.environ["PYTHONPATH"]),) if "PYTHONPATH" in os.environ else ()
    boot = Boot(models=(models,), packs=tuple(options.pack), environ=environ,
                arguments=tuple(options.engine_argument), cpu=options.cpu)  # fmt: skip
    return ComfyUI.start(Install(options.comfyui.resolve(), Path(options.python)), base, boot)


def submit(engine: ComfyUI, graph: dict[str, Any]) -> dict[str, Any]:
    """Run a graph to its end; its history entry."""
    return _succeeded(engine.run(graph))


def _succeeded(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["status"]["status_str"] != "success":
        sys.exit(f"the job failed: {json.dumps(entry['status'])[:4000]}")
    return entry


def _execution_seconds(entry: dict[str, Any]) -> float:
    times = {kind: data["timestamp"] for kind, data in entry["status"]["messages"]}
    return float(times["execution_success"] - times["execution_start"]) / 1000


def ryla(*arguments: str) -> dict[str, Any]:
    """Run the program `ryla` with --json and return what it printed."""
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPO / "custom_nodes"), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", RYLA, *arguments, "--json"], env=environ, capture_output=True, text=True, cwd=REPO
    )
    if done.returncode:
        sys.exit(f"ryla {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return dict(json.loads(done.stdout))


def run_arguments(options: argparse.Namespace, seed: int) -> list[str]:
    return ["run", "flux-dev", "--prompt", PROMPT, "--seed", str(seed), "--width", str(options.size),
            "--height", str(options.size), "--steps", str(options.steps)]  # fmt: skip


def bound_graph(options: argparse.Namespace, url: str, seed: int) -> dict[str, Any]:
    """The graph that `ryla run` submits."""
    return ryla(*run_arguments(options, seed), "--server", url, "--dry-run")


def with_core_save(graph: dict[str, Any]) -> dict[str, Any]:
    """The same graph, saved as PNG by core's SaveImage (for a comparison of pixels)."""
    changed = copy.deepcopy(graph)
    for node in changed.values():
        if node["class_type"] == "RYLA_SaveImage":
            node["class_type"] = "SaveImage"
            node["inputs"] = {key: node["inputs"][key] for key in ("images", "filename_prefix")}
    return changed


def with_core_loaders(graph: dict[str, Any]) -> dict[str, Any]:
    """The same graph without a node of ours: UNETLoader, DualCLIPLoader, VAELoader, plain text, SaveImage."""
    changed = with_core_save(graph)
    core = {
        "unet": {"class_type": "UNETLoader",
                 "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}},
        "clip": {"class_type": "DualCLIPLoader", "inputs": {
                 "clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors", "type": "flux"}},
        "vae": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
    }  # fmt: skip
    for node in list(changed.values()):
        for name, value in node["inputs"].items():
            node["inputs"][name] = _without_ours(changed, value)
    kept = {key: node for key, node in changed.items() if not node["class_type"].startswith("RYLA_")}
    return {**kept, **core}


def _without_ours(graph: dict[str, Any], value: Any) -> Any:
    """Follow a link through our nodes to what stands for it in core's graph."""
    while isinstance(value, list):
        source, output = graph.get(value[0]), value[1]
        if source is None or not source["class_type"].startswith("RYLA_"):
            break
        if source["class_type"] == "RYLA_FluxLoader":
            return [("unet", "clip", "vae")[output], 0]
        value = source["inputs"][
            {"RYLA_LoraLoader": ("model", "clip")[output % 2], "RYLA_FluxSpeed": "model", "RYLA_Prompt": "text"}[
                source["class_type"]
            ]
        ]
    return value


def measure(options: argparse.Namespace, models: Path, name: str) -> Round:
    """One ComfyUI, one first picture, three warm ones, one PNG."""
    result = Round(name)
    base = options.work / f"{name.replace(' ', '-')}-{time.monotonic_ns()}"
    began = time.perf_counter()
    engine = start(options, models, base)
    result.start = time.perf_counter() - began
    try:
        ours = name.startswith("ours")
        graphs = {} if ours else {seed: with_core_loaders(bound_graph(options, engine.url, seed)) for seed in SEEDS}
        for seed in SEEDS:
            began = time.perf_counter()
            if ours:
                picture = base / f"{seed}.jpg"
                ryla(*run_arguments(options, seed), "--server", engine.url, "-o", str(picture))
                entry = _succeeded(next(reversed(engine.get("/history?max_items=1").values())))
            else:
                entry = submit(engine, graphs[seed])
            if seed == SEEDS[0]:
                result.first = _execution_seconds(entry)
                result.start_to_first = result.start + result.first
            else:
                result.warm.append(_execution_seconds(entry))
                result.client_warm.append(time.perf_counter() - began)
        device = engine.get("/system_stats")["devices"][0]
        result.vram_gb = (device["vram_total"] - device["vram_free"]) / 1e9
        graph = bound_graph(options, engine.url, SEEDS[-1])
        # Another guidance: the picture is made anew instead of taken from the engine's cache.
        outputs = submit(engine, seeded(with_core_save(graph) if ours else with_core_loaders(graph), 4242))["outputs"]
        image = next(images["images"][0] for images in outputs.values() if "images" in images)
        result.picture = (base / "output" / image["subfolder"] / image["filename"]).read_bytes()
    finally:
        engine.stop()
        shutil.rmtree(base / "output", ignore_errors=True)
    return result


def seeded(graph: dict[str, Any], seed: int) -> dict[str, Any]:
    """The same graph with another seed."""
    changed = copy.deepcopy(graph)
    for node in changed.values():
        if "seed" in node["inputs"] and not isinstance(node["inputs"]["seed"], list):
            node["inputs"]["seed"] = seed
    return changed


def pixels(png: bytes) -> bytes:
    from PIL import Image

    return Image.open(io.BytesIO(png)).tobytes()


def rounds(options: argparse.Namespace, models: Path) -> Iterator[Round]:
    for name in options.rounds.split(","):
        if "cold" in name:
            # Clean pages only are dropped: the weights have to be on the disk first.
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        result = measure(options, models, name.strip())
        print(f"{result.name}: start {result.start:.1f} s, first {result.first:.1f} s, "
              f"warm {', '.join(f'{seconds:.2f}' for seconds in result.warm)} s", flush=True)  # fmt: skip
        yield result


def figures(results: list[Round]) -> dict[str, Any]:
    """What ``--json`` holds: every round, and whether all pictures are the same, pixel for pixel."""
    pictures = [pixels(result.picture) for result in results]
    return {
        "equal": all(picture == pictures[0] for picture in pictures),
        "varied": len(set(pictures[0])) > 1,
        "rounds": [
            {"name": r.name, "start_s": r.start, "first_s": r.first, "start_to_first_s": r.start_to_first,
             "warm_s": r.warm, "client_warm_s": r.client_warm, "vram_gb": r.vram_gb}
            for r in results
        ],
    }  # fmt: skip


def print_table(results: list[Round]) -> None:
    head = ("round", "start", "first", "start+first", "warm median", "client median", "VRAM GB")
    rows = [
        (r.name, *(f"{value:.2f}" for value in (r.start, r.first, r.start_to_first, statistics.median(r.warm),
                                                statistics.median(r.client_warm), r.vram_gb)))
        for r in results
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    outcome = figures(results)
    print(f"pictures of all rounds, pixel for pixel: {'equal' if outcome['equal'] else 'DIFFERENT'}"
          f"{'' if outcome['varied'] else ' (but of one colour: proves nothing)'}")  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__)
    add_picture(parser)
    parser.add_argument(
        "--rounds", default="ours,core,core,ours", help="`cold` in a name drops the page cache first (root)"
    )
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    models = models_of(options)
    began = time.perf_counter()
    warm_up = start(options, models, options.work / f"warm-up-{time.monotonic_ns()}")
    print(f"start with byte-code not yet compiled: {time.perf_counter() - began:.1f} s", flush=True)
    warm_up.stop()
    results: list[Round] = []
    for result in rounds(options, models):
        results.append(result)
        if options.json:  # After each round: a run that is cut short leaves what it has.
            options.json.write_text(json.dumps(figures(results), indent=1))
    print_table(results)


if __name__ == "__main__":
    main()
