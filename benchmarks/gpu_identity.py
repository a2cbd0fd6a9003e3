"""Full-size InstantID in a real ComfyUI on one GPU: time and memory of `sdxl-instantid` and `flux-instantid`, and of
the stages of the latter apart.

    python benchmarks/gpu_identity.py --comfyui /path/to/ComfyUI --weights make --json figures.json

`--weights make` fills files of the true names, shapes and precisions with noise (45 GB; the pictures are noise, the
time is real); `--weights DIR` takes a folder laid out like ComfyUI's models/. Faces come from a stand-in node, so
InsightFace is not needed (benchmarks/bench_identity.py times it).

Three ComfyUIs, one after the other, so that each peak of memory is its own: `sdxl-instantid` and then the face stage
without FLUX, `flux-instantid`, FLUX alone. Every row has its seconds as the server timed them, the peaks of PyTorch's
allocator in it, and what nvidia-smi showed right after it; the counts say what the identity code did. Rows are
written to --json as they come; with the environment variable OUT set, their medians are left in that folder as
identity.json. A picture of one colour, or a count that is not as promised, is reported, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "tests"), str(REPO / "custom_nodes")]

from comfyui.process import Boot, ComfyUI, Install  # noqa: E402 - the tests' way to start a ComfyUI
from device_memory import device_memory_gb  # noqa: E402
from gpu_flux import _execution_seconds, submit  # noqa: E402
from gpubench import Rows, models_of, parser_of  # noqa: E402

HERE = Path(__file__).parent
Graph = dict[str, Any]
WARM_SEEDS = (2, 3, 4)
CROP_FACTORS = (2.19, 2.21, 2.23)
LAYERS = 70
WEIGHTS_GB = {"sdxl_weights.py": 12, "flux_weights.py": 34}
FLUX_ALONE, BOTH = "warm, FLUX stage", "warm, both stages"
PEAKS = ("peak_allocated_gb", "peak_reserved_gb", "device_gb_after")


@dataclass
class Report:
    """What was found so far; on disk after every row."""

    path: Path | None
    began: float = field(default_factory=time.monotonic)
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        self.rows.append({**row, "at_s": round(time.monotonic() - self.began, 1)})
        print(json.dumps(self.rows[-1]), flush=True)
        self.write()

    def require(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)
            print(f"PROBLEM: {problem}", flush=True)
            self.write()

    def summary(self) -> Iterator[dict[str, Any]]:
        """The median seconds and the highest peaks of the rows of one kind, and what FLUX's stage alone is of that."""
        measured = [row for row in self.rows if "picture_spread" in row]
        alone = [row["seconds"] for row in measured if row["run"] == FLUX_ALONE]
        for process, run in dict.fromkeys((row["process"], row["run"]) for row in measured):
            rows = [row for row in measured if (row["process"], row["run"]) == (process, run)]
            peaks = {name: [row[name] for row in rows if row[name] is not None] for name in PEAKS}
            seconds = statistics.median(row["seconds"] for row in rows)
            of_flux = round(seconds / statistics.median(alone), 2) if alone and run.startswith(BOTH) else None
            yield {
                "row": "identity",
                "process": process,
                "run": run,
                "seconds": round(seconds, 2),
                "of_flux_dev": of_flux,
                **{name: round(max(values), 2) if values else None for name, values in peaks.items()},
            }

    def write(self) -> None:
        if self.path:
            self.path.write_text(json.dumps({"rows": self.rows, "problems": self.problems}, indent=1))


@dataclass(frozen=True)
class Bench:
    """One running ComfyUI that is measured."""

    name: str
    engine: ComfyUI
    report: Report
    values: dict[str, str]
    speeds: tuple[str, ...]

    def graph(self, workflow: str, seed: int, **values: Any) -> Graph:
        """The shipped workflow as `ryla run` binds it, with the stand-in for the face analyzer."""
        from ryla_nodes import settings
        from ryla_nodes.workflows.manifest import load
        from ryla_nodes.workflows.workflow import bind

        template = load(workflow, settings.load({}))
        known = {parameter.name for parameter in template.parameters}
        chosen = {name: value for name, value in self.values.items() if name in known}
        photo = self.engine.base / "input" / "photo.png"
        prompt = "a portrait of a woman in a garden"
        bound = bind(template, {"prompt": prompt, "reference_image": photo, "seed": seed, **chosen, **values})
        for upload in bound.uploads:
            bound = bound.with_image(upload.node_id, upload.input, photo.name)
        node_of(bound.graph, "Face analyzer").update(class_type="RYLA_StandInFaceAnalyzer", inputs={})
        return bound.graph

    def measure(self, run: str, graph: Graph, *, new_face: bool | None, scene: bool | None = None) -> None:
        """Run ``graph`` and report a row.

        Args:
            new_face: whether the adapter has to be read; None for a graph without a face, or of replayed steps only.
            scene: whether FLUX has to paint; None for a graph without it.
        """
        self.engine.http.post("/ryla_bench/reset").raise_for_status()
        entry = submit(self.engine, graph)
        counts = self.engine.get("/ryla_bench/report")
        picture = _picture(self.engine, entry)
        spread = _spread(picture)
        self.report.add(
            process=self.name,
            run=run,
            seconds=_execution_seconds(entry),
            device_gb_after=device_memory_gb(),
            **counts,
            picture_spread=spread,
            picture=hashlib.sha256(picture.tobytes()).hexdigest()[:12],
        )
        where = f"{self.name}, {run}"
        self.report.require(min(spread) > 1, f"{where}: the picture, or its middle, is of one colour")
        if new_face is not None:
            self.report.require(counts["layers_reached"] == LAYERS, f"{where}: {counts['layers_reached']} layers")
            passes = 2 * new_face  # One for each half of the guidance.
            self.report.require(
                counts["resampler_passes"] == passes, f"{where}: {counts['resampler_passes']} Resampler passes"
            )
            self.report.require(counts["adapter_mapped_bytes"] == 0, f"{where}: the adapter is still in memory")
        if scene is not None:
            painted = node_id(graph, "Sampler") not in _cached(entry)
            self.report.require(painted == scene, f"{where}: FLUX {'painted' if painted else 'did not paint'}")


def node_id(graph: Graph, title: str) -> str:
    return next(key for key, node in graph.items() if node["_meta"]["title"] == title)


def node_of(graph: Graph, title: str) -> dict[str, Any]:
    node: dict[str, Any] = graph[node_id(graph, title)]
    return node


def only_flux(graph: Graph) -> Graph:
    """The first stage alone: what the scene needs, saved."""
    node_of(graph, "Result")["inputs"]["images"] = [node_id(graph, "Scene"), 0]
    return _needed(graph, "Result")


def only_face(graph: Graph, picture: str) -> Graph:
    """The second stage alone, on a picture in the input folder instead of FLUX's."""
    node_of(graph, "Scene").update(class_type="LoadImage", inputs={"image": picture})
    node_of(graph, "Prompt")["inputs"]["trigger"] = ""  # It comes from a LoRA of FLUX's.
    return _needed(graph, "Result", "Similarity")


def with_crop_factor(graph: Graph, crop_factor: float) -> Graph:
    """Another crop: ComfyUI runs the whole second stage again, and nothing of the first."""
    node_of(graph, "Face crop")["inputs"]["crop_factor"] = crop_factor
    return graph


def _needed(graph: Graph, *titles: str) -> Graph:
    """The nodes of ``titles`` and those that they depend on."""
    kept: set[str] = set()
    open_ends = [node_id(graph, title) for title in titles]
    while open_ends:
        key = open_ends.pop()
        if key not in kept:
            kept.add(key)
            open_ends += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return {key: node for key, node in graph.items() if key in kept}


def _cached(entry: dict[str, Any]) -> set[str]:
    """The nodes of a job that ComfyUI took from its cache."""
    messages = [data for kind, data in entry["status"]["messages"] if kind == "execution_cached"]
    return {str(node) for data in messages for node in data["nodes"]}


def _picture(engine: ComfyUI, entry: dict[str, Any]) -> Any:
    """The saved picture, (H, W, 3) in 8 bits."""
    import numpy as np
    from PIL import Image

    shown = (image for output in entry["outputs"].values() for image in output.get("images", ()))
    saved = next(image for image in shown if image["type"] == "output")  # The others are previews.
    return np.asarray(Image.open(engine.output / saved["subfolder"] / saved["filename"]).convert("RGB"))


def _spread(picture: Any) -> tuple[float, float]:
    """Standard deviation, in 8-bit steps, of a picture and of its middle, where the face is."""
    rows, columns = picture.shape[:2]
    middle = picture[rows * 7 // 16 : rows * 9 // 16, columns * 7 // 16 : columns * 9 // 16]
    return round(float(picture.std()), 1), round(float(middle.std()), 1)


def sdxl_instantid(bench: Bench) -> None:
    bench.measure("first", bench.graph("sdxl-instantid", 1), new_face=True)
    for seed in WARM_SEEDS:
        bench.measure("warm", bench.graph("sdxl-instantid", seed), new_face=False)
    if "exact" in bench.speeds:
        _sdxl_exact(bench)
    weaker = bench.graph("sdxl-instantid", 4, instantid_strength=0.7)
    bench.measure("another face weight", weaker, new_face=False)
    for crop_factor in CROP_FACTORS:
        graph = with_crop_factor(only_face(bench.graph("flux-instantid", 1), "scene.png"), crop_factor)
        # The adapter is still loaded, so it knows the face already.
        bench.measure("face stage, no FLUX in memory", graph, new_face=False)


def _sdxl_exact(bench: Bench) -> None:
    """The same pictures, their steps replayed: to the bit. The layers are not counted, for Python does not see them."""
    for seed in (1, *WARM_SEEDS):
        run = "first, exact" if seed == 1 else "warm, exact"
        bench.measure(run, bench.graph("sdxl-instantid", seed, speed="exact"), new_face=None)
    made = [row["picture"] for row in bench.report.rows if "picture" in row]
    half = len(WARM_SEEDS) + 1
    bench.report.require(made[-half:] == made[-2 * half : -half], f"{bench.name}: replayed, other pictures are painted")


def flux_instantid(bench: Bench) -> None:
    bench.measure("first", bench.graph("flux-instantid", 1), new_face=True, scene=True)
    for seed in WARM_SEEDS:
        bench.measure(BOTH, bench.graph("flux-instantid", seed), new_face=False, scene=True)
    for crop_factor in CROP_FACTORS:
        graph = with_crop_factor(bench.graph("flux-instantid", WARM_SEEDS[-1]), crop_factor)
        bench.measure("warm, face stage, the scene from the cache", graph, new_face=False, scene=False)
    for mode in bench.speeds:
        bench.measure(f"first, {mode}", bench.graph("flux-instantid", 5, speed=mode), new_face=False, scene=True)
        for seed in WARM_SEEDS:
            graph = bench.graph("flux-instantid", seed, speed=mode)
            bench.measure(f"{BOTH}, {mode}", graph, new_face=False, scene=True)


def flux_alone(bench: Bench) -> None:
    for seed in (1, *WARM_SEEDS):
        graph = only_flux(bench.graph("flux-instantid", seed))
        bench.measure("first" if seed == 1 else FLUX_ALONE, graph, new_face=None, scene=True)


PARTS: dict[str, Callable[[Bench], None]] = {
    "sdxl-instantid": sdxl_instantid,
    "flux-instantid": flux_instantid,
    "flux-alone": flux_alone,
}


@contextlib.contextmanager
def started(options: argparse.Namespace, models: Path, name: str, report: Report) -> Iterator[ComfyUI]:
    """A ComfyUI with our pack, the stand-in for faces and the probe; its Python finds what our PYTHONPATH names."""
    base = options.work / f"{name}-{time.monotonic_ns()}"
    environ = (("PYTHONPATH", os.environ["PYTHONPATH"]),) if "PYTHONPATH" in os.environ else ()
    packs = (HERE / "stand_in_faces.py", HERE / "engine_probe.py", *options.pack)
    boot = Boot(
        models=(models,), packs=packs, environ=environ, arguments=tuple(options.engine_argument), cpu=options.cpu
    )
    began = time.monotonic()
    engine = ComfyUI.start(Install(options.comfyui.resolve(), Path(options.python)), base, boot)
    try:
        system = engine.get("/system_stats")
        device = {"device": system["devices"][0]["name"], "comfyui": system["system"]["comfyui_version"]}
        report.add(process=name, run="start of the server", seconds=round(time.monotonic() - began, 2), **device)
        pictures(base / "input")
        scorer(base / "models" / "insightface")
        yield engine
        report.require("loaded partially" not in engine.log, f"{name}: ComfyUI kept a part of a model off the GPU")
    finally:
        engine.stop()


def pictures(folder: Path) -> None:
    """The reference photo and a scene, which need no face: the stand-in sees one in the middle of every picture."""
    from PIL import Image

    Image.new("RGB", (768, 768), (140, 120, 100)).save(folder / "photo.png")
    Image.effect_noise((1024, 1024), 80).convert("RGB").save(folder / "scene.png")


def scorer(folder: Path) -> None:
    """An empty file in place of the recogniser that scores: a job is refused without one, the stand-in reads none."""
    path = folder / "models" / "buffalo_l" / "w600k_r50.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def makers_of(options: argparse.Namespace, parts: list[str]) -> list[str]:
    """What makes the weights of ``parts``; checks that there is room for them."""
    makers = ["sdxl_weights.py"] * (parts != ["flux-alone"]) + ["flux_weights.py"] * (parts != ["sdxl-instantid"])
    options.work.mkdir(parents=True, exist_ok=True)
    here = sum(path.stat().st_size for path in (options.work / "models").rglob("*") if path.is_file()) / 1e9
    room, need = shutil.disk_usage(options.work).free / 1e9 + here, sum(WEIGHTS_GB[maker] for maker in makers)
    if options.weights == "make" and room < need:
        sys.exit(f"{options.work} has room for {room:.0f} GB, the weights take {need}; name another place by --work")
    return makers


def stop_on_signals(limit: int) -> None:
    """End in order, so that no ComfyUI is left behind, when told to stop and after ``limit`` seconds."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)

    def stop(number: int, _: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        sys.exit(f"stopped by {signal.Signals(number).name}")

    for number in numbers:
        signal.signal(number, stop)
    signal.alarm(limit)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="which of them, in order (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=450, help="stop after so many seconds (default: %(default)s)")
    parser.add_argument("--speeds", default="exact,fast", help="modes of `speed` beside off (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="workflow parameter")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    stop_on_signals(options.limit)
    report, parts = Report(options.json), options.parts.split(",")
    makers = makers_of(options, parts)
    models = models_of(options, makers)
    if options.weights == "make":
        report.add(run="making the weights")
    values = dict(pair.split("=", 1) for pair in options.set)
    try:
        for part in parts:
            with started(options, models, part, report) as engine:
                PARTS[part](Bench(part, engine, report, values, tuple(filter(None, options.speeds.split(",")))))
    finally:
        found = Rows("identity")
        for row in report.summary():
            found.add(row)
        found.show()
    sys.exit("\n".join(report.problems) or None)


if __name__ == "__main__":
    main()
