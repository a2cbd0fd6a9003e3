"""Full-size InstantID in a real ComfyUI on one GPU: `sdxl-instantid` and `flux-instantid`, time and memory.

    python benchmarks/gpu_identity.py --comfyui /path/to/ComfyUI --weights make

`--weights make` fills files of the true names, shapes and precisions with noise (45 GB with Flux; the picture is noise,
the time is real); `--weights DIR` takes a folder laid out like ComfyUI's models/. Faces come from a stand-in node, so
InsightFace is not needed (benchmarks/bench_identity.py times it). Each workflow is run with a first picture, warm ones
(new seed) and one with another face weight, which must not read the adapter again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "tests"), str(REPO / "custom_nodes")]

from comfyui.process import Boot, ComfyUI, Install  # noqa: E402 - the tests' way to start a ComfyUI
from gpu_flux import _execution_seconds, submit  # noqa: E402

HERE = Path(__file__).parent


SET: dict[str, str] = {}  # Of --set.


def graph(name: str, photo: Path, seed: int, **values: Any) -> dict[str, Any]:
    """The shipped workflow as `ryla run` binds it, with the stand-in for the face analyzer."""
    from ryla_nodes import settings
    from ryla_nodes.templates.bind import bind
    from ryla_nodes.templates.workflow import load

    bound = bind(
        load(name, settings.load({})),
        {"prompt": "a portrait of a woman in a garden", "reference_image": photo, "seed": seed, **SET, **values},
    )
    for upload in bound.uploads:
        bound = bound.with_image(upload.node_id, upload.input, photo.name)
    result: dict[str, Any] = bound.graph
    for node in result.values():
        if node["class_type"] == "RYLA_FaceAnalyzer":
            node.update(class_type="RYLA_StandInFaceAnalyzer", inputs={})
    return result


def vram_gb(engine: ComfyUI) -> float:
    device = engine.get("/system_stats")["devices"][0]
    return float(device["vram_total"] - device["vram_free"]) / 1e9


def measure(engine: ComfyUI, name: str, photo: Path) -> dict[str, Any]:
    """First picture, three warm ones, one with another face weight: seconds as the server timed them."""
    first = _execution_seconds(submit(engine, graph(name, photo, 1)))
    warm = [_execution_seconds(submit(engine, graph(name, photo, seed))) for seed in (2, 3, 4)]
    weight = _execution_seconds(submit(engine, graph(name, photo, 4, instantid_strength=0.7)))
    return {"workflow": name, "first_s": first, "warm_s": warm, "other_weight_s": weight, "vram_gb": vram_gb(engine)}


def stages(engine: ComfyUI, photo: Path) -> Iterator[tuple[str, float]]:
    """Warm seconds of the two stages of flux-instantid: the whole, and the second with the first one cached."""
    whole = [_execution_seconds(submit(engine, graph("flux-instantid", photo, seed))) for seed in (11, 12)]
    yield "flux-instantid, both stages", statistics.mean(whole)
    cached = [
        _execution_seconds(submit(engine, graph("flux-instantid", photo, 12, face_denoise=denoise)))
        for denoise in (0.69, 0.71)
    ]
    yield "flux-instantid, SDXL + InstantID stage alone", statistics.mean(cached)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's source tree")
    parser.add_argument("--python", default=sys.executable, help="ComfyUI's Python, if not this one")
    parser.add_argument("--weights", required=True, help="`make`, or a folder laid out like ComfyUI's models/")
    parser.add_argument("--work", type=Path, default=Path("/tmp/ryla-gpu-identity"), help="for weights, logs, pictures")
    parser.add_argument("--workflows", default="sdxl-instantid,flux-instantid")
    parser.add_argument("--engine-argument", action="append", default=[], help="argument for ComfyUI, repeatable")
    parser.add_argument("--cpu", action="store_true", help="for a try with small weights")
    parser.add_argument("--pack", action="append", default=[], type=Path, help="further node pack, repeatable")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="workflow parameter, repeatable"
    )
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    SET.update(pair.split("=", 1) for pair in options.set)
    options.work.mkdir(parents=True, exist_ok=True)
    models = options.work / "models" if options.weights == "make" else Path(options.weights)
    wanted = options.workflows.split(",")
    if options.weights == "make":
        makers = ["sdxl_weights.py", *(["flux_weights.py"] if "flux-instantid" in wanted else [])]
        for maker in makers:
            subprocess.run([options.python, str(HERE / maker), str(options.comfyui), str(models)], check=True)
    results = []
    for result in run(options, models, wanted):
        print(json.dumps(result), flush=True)
        results.append(result)
        if options.json:  # After each: a run that is cut short leaves what it has.
            options.json.write_text(json.dumps(results, indent=1))


def run(options: argparse.Namespace, models: Path, wanted: list[str]) -> Iterator[dict[str, Any]]:
    """One ComfyUI for each workflow, so that each peak of memory is its own."""
    from PIL import Image

    for name in wanted:
        base = options.work / f"{name}-{time.monotonic_ns()}"
        packs = (HERE / "stand_in_faces.py", *options.pack)
        boot = Boot(models=(models,), packs=packs, arguments=tuple(options.engine_argument), cpu=options.cpu)
        engine = ComfyUI.start(Install(options.comfyui.resolve(), Path(options.python)), base, boot)
        try:
            photo = base / "input" / "photo.png"
            Image.new("RGB", (768, 768), (140, 120, 100)).save(photo)
            yield measure(engine, name, photo)
            if name == "flux-instantid":
                for stage, seconds in stages(engine, photo):
                    yield {"stage": stage, "seconds": seconds}
        finally:
            engine.stop()


if __name__ == "__main__":
    main()
