"""Full-size FLUX.1 Dev from its files to the first picture: ours beside stock, on one GPU.

    python benchmarks/gpu_loading.py --comfyui /path/to/ComfyUI --weights make [--row reader ...] [--round core ...]

Rows, each of which runs alone:
    reader  the files read to the GPU, page cache warm: GB/s by threads and size of a part, beside safetensors, and
            beside fastsafetensors and runai-model-streamer where they are installed
    warm    the first picture of a ComfyUI with a warm page cache: core's loaders, ours, ours, core's
    cold    from the start of the process to the first picture, page cache dropped (root): core's, ours, ours with
            RYLA_PREFETCH, and `speed` fast with RYLA_PREFETCH from kept 8-bit weights (made before, not timed)
    filled  the first picture of a process with a warm page cache in `exact` and `fast`, compiled code and 8-bit
            weights and blocks compiled ahead kept by an earlier process
    embedded  the same two of `ryla engine`, without and with RYLA_PREFETCH

Tables are printed; with the environment variable OUT set, loading.json and ComfyUI's logs are left in that folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "tests"))

import gpu_flux  # noqa: E402
import gpu_lora  # noqa: E402
from comfyui.process import Boot, ComfyUI, Install  # noqa: E402 - the tests' way to start a ComfyUI
from gpubench import Row, Rows, add_picture, models_of, parser_of, run, wait_for_packages  # noqa: E402

FILES = ("diffusion_models/flux1-dev", "text_encoders/clip_l", "text_encoders/t5xxl_fp16", "vae/ae")
DROP = Path("/proc/sys/vm/drop_caches")
KEEP_SECONDS = 120


@dataclass
class Bench:
    """The options, the weights and what was measured so far."""

    options: argparse.Namespace
    models: Path
    rows: Rows = field(default_factory=lambda: Rows("loading"))

    def add(self, row: Row) -> None:
        """Print and keep a row."""
        self.rows.add(row)

    def chosen(self, *names: str) -> list[str]:
        """Those of a row's rounds that --round names; all without it."""
        return [name for name in names if not self.options.round or name in self.options.round]

    @property
    def volume(self) -> Path:
        """Where compiled code and 8-bit weights are kept."""
        return Path(self.options.work, "volume")

    @property
    def files(self) -> list[Path]:
        return [self.models / f"{name}.safetensors" for name in FILES]

    def warm_cache(self) -> None:
        """Have all weights in the page cache."""
        began = time.perf_counter()
        buffer = bytearray(16 << 20)  # New memory for each part takes longer than reading it.
        for path in self.files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        print(f"page cache filled in {time.perf_counter() - began:.1f} s", flush=True)

    def drop_cache(self) -> bool:
        """Have none of them there; False when that takes rights that we have not."""
        os.sync()  # Only what is on the disk is dropped.
        try:
            DROP.write_text("3")
        except OSError as error:
            print(f"the page cache cannot be dropped ({error.strerror}): this row needs root", flush=True)
            return False
        return True


# --- the reader alone ------------------------------------------------------------------------------------------------

_READER = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from ryla_nodes.engines.loading.reader import Reader
device, paths = torch.device(sys.argv[2]), [Path(path) for path in sys.argv[5:]]
rows = []
def sync():
    torch.cuda.synchronize() if device.type == "cuda" else None
def measure(name, load):
    for again in range(2):
        sync(); began = time.perf_counter()
        kept = load(); sync()
        seconds = time.perf_counter() - began
        del kept
        if device.type == "cuda": torch.cuda.empty_cache()
        bytes_ = sum(path.stat().st_size for path in paths)
        print(json.dumps({"row": "reader", "how": name, "again": again, "seconds": round(seconds, 3),
                          "gb_s": round(bytes_ / seconds / 1e9, 2)}), flush=True)
def ours(threads, part):
    def load():
        with Reader(device, threads, part << 20) as reader:
            return [reading.tensors() for reading in [reader.start(path) for path in paths]]
    return load
for threads in map(int, sys.argv[3].split(",")):
    for part in map(int, sys.argv[4].split(",")):
        measure(f"{threads} threads, {part} MB", ours(threads, part))
from safetensors.torch import load_file
measure("safetensors", lambda: [load_file(path, device=str(device)) for path in paths])
try:
    from fastsafetensors import fastsafe_open
except ImportError:
    print("fastsafetensors is not installed", file=sys.stderr)
else:
    def fast():
        with fastsafe_open(filenames=[str(path) for path in paths], nogds=True, device=str(device)) as file:
            return {key: file.get_tensor(key).clone() for key in file.keys()}
    try:
        measure("fastsafetensors, cloned", fast)
    except Exception as error:
        print("fastsafetensors:", repr(error)[:300], file=sys.stderr)
try:
    from runai_model_streamer import SafetensorsStreamer
except ImportError:
    print("runai-model-streamer is not installed", file=sys.stderr)
else:
    def runai():
        found = {}
        with SafetensorsStreamer() as streamer:
            for number, path in enumerate(paths):
                streamer.stream_file(str(path))
                for name, tensor in streamer.get_tensors():
                    found[number, name] = tensor.to(device)
        return found
    try:
        measure("runai-model-streamer", runai)
    except Exception as error:
        print("runai-model-streamer:", repr(error)[:300], file=sys.stderr)
"""


def row_reader(bench: Bench) -> None:
    """The transformer and T5 to the GPU."""
    bench.warm_cache()
    options = bench.options
    command = [options.python, "-c", _READER, str(REPO / "custom_nodes"), "cpu" if options.cpu else "cuda:0",
               options.threads, options.parts, str(bench.files[0]), str(bench.files[2])]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        bench.add(json.loads(line))
    if done.returncode:
        sys.exit(f"the reader ended with {done.returncode}")


# --- pictures --------------------------------------------------------------------------------------------------------


@contextmanager
def comfyui(bench: Bench, name: str, prefetch: bool) -> Iterator[ComfyUI]:
    """A ComfyUI with our pack; its log is left in OUT."""
    options = bench.options
    environ = [("PYTHONPATH", os.environ["PYTHONPATH"])] if "PYTHONPATH" in os.environ else []
    environ += [("RYLA_PREFETCH", "flux-dev")] if prefetch else []
    passed = ("CC", "RYLA_AHEAD")
    environ += [("RYLA_VOLUME", str(bench.volume)), *((key, os.environ[key]) for key in passed if key in os.environ)]
    boot = Boot(models=(bench.models,), packs=tuple(options.pack), environ=tuple(environ),
                arguments=tuple(options.engine_argument), cpu=options.cpu)  # fmt: skip
    base = options.work / f"{name.replace(' ', '-')}-{time.monotonic_ns()}"
    engine = ComfyUI.start(Install(options.comfyui.resolve(), Path(options.python)), base, boot)
    try:
        yield engine
    finally:
        engine.stop()
        if "OUT" in os.environ:
            Path(os.environ["OUT"], f"{base.name}.log").write_text(engine.log)


def pictures(bench: Bench, row: str, name: str, prefetch: bool = False) -> None:
    """Start a ComfyUI; its first picture and a warm one."""
    options = bench.options
    began = time.perf_counter()
    with comfyui(bench, f"{row} {name}", prefetch) as engine:
        started = time.perf_counter() - began
        seconds, digests = [], []
        for seed in (7, 8):
            entry = gpu_flux.submit(engine, _graph(options, name, seed))
            seconds.append(round(gpu_flux._execution_seconds(entry), 2))
            if seed == 7:
                total = time.perf_counter() - began
            digests.append(_pixels(engine.files(entry["outputs"], "save")[0].read_bytes()))
        device = engine.get("/system_stats")["devices"][0]
        used = (device["vram_total"] - device["vram_free"]) / 1e9
    bench.add({"row": row, "name": name, "start_s": round(started, 2), "first_s": seconds[0], "warm_s": seconds[1],
               "start_to_picture_s": round(total, 2), "vram_gb": round(used, 1), "pixels": digests})  # fmt: skip


def _graph(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Text to a PNG; the mode of ``speed`` is the last word of ``name``, if it is one."""
    made = gpu_lora.graph("ours" in name, "", seed, options.size, options.steps)
    mode = name.split()[-1]
    if mode in ("exact", "fast"):
        fields = {"model": made["sample"]["inputs"]["model"], "mode": mode}
        made["speed"] = {"class_type": "RYLA_FluxSpeed", "inputs": fields}
        made["sample"]["inputs"]["model"] = ["speed", 0]
    return made


def keep(bench: Bench, *modes: str) -> None:
    """Have the volume hold what ``modes`` compile, the 8-bit weights, and what files such a process uses."""
    began = time.perf_counter()
    with comfyui(bench, "keep", True) as engine:
        for mode in modes:
            gpu_flux.submit(engine, _graph(bench.options, f"ours {mode}", 7))
        while "fast" in modes and not bench.options.cpu and not list(bench.volume.glob("cache/fp8-*.safetensors")):
            if time.perf_counter() - began > KEEP_SECONDS or "weights are not kept" in engine.log:
                print(f"8-bit weights were not kept:\n{engine.log[-2000:]}", flush=True)
                break
            time.sleep(0.5)
        if modes and not bench.options.cpu:
            wait_for_packages(bench.volume, modes, partial(getattr, engine, "log"))
    print(f"{' and '.join(modes)} kept in {time.perf_counter() - began:.1f} s", flush=True)


def _pixels(png: bytes) -> str:
    from PIL import Image

    return hashlib.sha256(Image.open(io.BytesIO(png)).tobytes()).hexdigest()[:12]


def row_warm(bench: Bench) -> None:
    """The first picture, page cache warm."""
    with comfyui(bench, "byte code", False):
        pass
    for name in bench.chosen("core", "ours", "ours again", "core again"):
        bench.warm_cache()
        pictures(bench, "warm", name)


def row_cold(bench: Bench) -> None:
    """From nothing to the first picture, page cache empty."""
    names = bench.chosen("core", "ours", "ours prefetched", "ours prefetched fast")
    if any("fast" in name for name in names):
        keep(bench, "fast")
    for name in names:
        if bench.drop_cache():
            pictures(bench, "cold", name, "prefetched" in name)


def row_filled(bench: Bench) -> None:
    """A process that finds everything: weights in the page cache, compiled code and 8-bit weights on the volume."""
    names = bench.chosen("core", "ours exact", "ours fast")
    keep(bench, *(mode for mode in ("exact", "fast") if any(mode in name for name in names)))
    for name in names:
        bench.warm_cache()
        pictures(bench, "filled", name)


# --- the embedded engine ---------------------------------------------------------------------------------------------


def row_embedded(bench: Bench) -> None:
    """`ryla engine`, page cache warm, then empty, then empty with RYLA_PREFETCH."""
    for name in bench.chosen("warm", "cold", "cold prefetched"):
        if name == "warm":
            bench.warm_cache()
        elif not bench.drop_cache():
            continue
        _embedded(bench, name, "prefetched" in name)


def _embedded(bench: Bench, name: str, prefetch: bool) -> None:
    home = bench.options.work / f"home-{time.monotonic_ns()}"
    path = os.pathsep.join([str(REPO / "custom_nodes"), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "RYLA_VOLUME": str(bench.models), "PYTHONPATH": path}
    environ["RYLA_PREFETCH"] = "flux-dev" if prefetch else "ae"  # Without it the engine on a GPU reads all the same.
    began = time.perf_counter()
    command = [bench.options.python, "-c", gpu_flux.RYLA, "engine", "--port", "0", "--home", str(home), "--json"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, cwd=REPO)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        started = time.perf_counter() - began
        seconds = []
        for seed in (7, 8):
            begun = time.perf_counter()
            target = home / f"{seed}.jpg"
            gpu_flux.ryla(*gpu_flux.run_arguments(bench.options, seed), "--server", url, "-o", str(target))
            seconds.append(round(time.perf_counter() - begun, 2))
            if seed == 7:
                total = time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(30)
    bench.add({"row": "embedded", "name": name, "start_s": round(started, 2), "first_s": seconds[0],
               "warm_s": seconds[1], "start_to_picture_s": round(total, 2)})  # fmt: skip


ROWS: dict[str, Callable[[Bench], None]] = {
    "reader": row_reader,
    "warm": row_warm,
    "cold": row_cold,
    "filled": row_filled,
    "embedded": row_embedded,
}


def tell_pictures(rows: list[Row]) -> None:
    """Whether all pictures are the same."""
    made = [
        tuple(row["pixels"]) for row in rows if "pixels" in row and row["name"].split()[-1] not in ("exact", "fast")
    ]
    if made:
        print(f"pictures of all rounds, pixel for pixel: {'equal' if len(set(made)) == 1 else 'DIFFERENT'}")


def main() -> None:
    parser = parser_of(__doc__)
    add_picture(parser)
    parser.add_argument("--row", action="append", choices=list(ROWS), help="repeatable; all when left out")
    parser.add_argument("--round", action="append", help="only this round of the rows, such as core; repeatable")
    parser.add_argument("--threads", default="1,4,8,16")
    parser.add_argument("--parts", default="16,64", help="MB that a thread reads in one go")
    options = parser.parse_args()
    bench = Bench(options, models_of(options))
    run(options.row, {name: partial(row, bench) for name, row in ROWS.items()})
    bench.rows.show()
    tell_pictures(bench.rows.found)


if __name__ == "__main__":
    main()
