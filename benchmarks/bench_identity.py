"""Memory and time of the identity part on this machine, at full size.

    python benchmarks/bench_identity.py

Makes an adapter of InstantID's true shapes (1.69 GB, noise), and prints what applying it costs: bytes of the adapter
that stay, bytes of keys and values, seconds for the first and for a second picture of a face. Then crop, composite and
(with the extra `identity`) InsightFace on the small models.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "custom_nodes"), str(REPO / "tests"), str(REPO / "benchmarks")]

from ryla_nodes.identity import crop as crops  # noqa: E402
from ryla_nodes.identity.adapter import Adapter  # noqa: E402
from ryla_nodes.identity.face_file import FaceIdentity  # noqa: E402
from ryla_nodes.identity.geometry import Box  # noqa: E402
from sdxl_weights import _adapter  # noqa: E402


def seconds(run: Callable[[], object], rounds: int = 5) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def resident_mb(path: Path) -> float:
    """Bytes of ``path`` that are mapped into this process, in MB (Linux)."""
    mapped, size, counts = 0.0, 0.0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            counts = str(path) in line
        elif counts and line.startswith("Rss:"):
            size = float(line.split()[1]) / 1024
            mapped += size
    return mapped


def adapter_figures(path: Path) -> None:
    adapter = Adapter(path)
    face = FaceIdentity(20 * np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32))
    began = time.perf_counter()
    identity = adapter.identity(face, 0.35, torch.float16)
    first = time.perf_counter() - began
    gc.collect()
    held = sum(t.numel() * t.element_size() for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() > 1e6)
    print(f"adapter file                     {path.stat().st_size / 1e6:8.0f} MB")
    print(f"adapter resident after apply     {held + resident_mb(path) * 1e6:8.0f} bytes")
    print(f"keys and values, 70 layers, fp16 {identity.nbytes / 1e6:8.2f} MB (both halves of the guidance)")
    print(f"first picture of a face          {first:8.2f} s")
    print(
        f"second picture of it             {seconds(lambda: adapter.identity(face, 0.35, torch.float16)) * 1e6:8.0f} us"
    )


def picture_figures() -> None:
    rng = np.random.default_rng(0)
    picture, refined = rng.random((1024, 1024, 3), np.float32), rng.random((1016, 1016, 3), np.float32)
    plan = crops.plan_crop(Box(380, 300, 620, 620), 1024, 1024, crop_factor=2.2, size=1016)
    cut = seconds(lambda: crops.resize(crops.cut(picture, plan), 1016, 1016))
    print(f"crop, 1024 -> 1016               {cut:8.3f} s")
    print(f"composite with colour match      {seconds(lambda: crops.composite(picture, refined, plan)):8.3f} s")


def face_figures() -> None:
    try:
        import face_models
    except ImportError:
        print("InsightFace is not installed: pip install '.[identity]'")
        return
    analyzer, photo = face_models.analyzer(), face_models.photo(3, 1024)
    analyzer.faces(face_models.photo(4, 1024))
    print(f"InsightFace (small models)       {seconds(lambda: analyzer._analyze(photo)):8.3f} s")
    analyzer.faces(photo)
    print(f"the same photo again             {seconds(lambda: analyzer.faces(photo)):8.4f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, help="a real ip-adapter.bin instead of the made one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.adapter or Path(folder) / "ip-adapter.bin"
        if options.adapter is None:
            _adapter(path)
            gc.collect()
        adapter_figures(path)
    picture_figures()
    face_figures()


if __name__ == "__main__":
    main()
