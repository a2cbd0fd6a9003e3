"""One step of full-size FLUX.1 on one GPU, in a ComfyUI's own Python: `speed` off, exact and fast. Noise weights.

    python benchmarks/flux_step.py /path/to/ComfyUI [--json FILE] [--kinds] [--profile] [--variants]
    python benchmarks/flux_step.py /path/to/ComfyUI --ahead [--depth 4,8]

Milliseconds of a step by CUDA events, seconds of a mode's first call and of the first call with another size, the error
of the velocity against `off`. --kinds: that error with one kind of layer in 8 bits; --profile: the kernels that take
longest; --variants: `fast` and `exact` with other options of the compiler, one after the other. --ahead: nothing but
`exact` and `fast` compiled as ever beside blocks that were compiled ahead, at 4096 + 512 tokens.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("comfyui", type=Path)
parser.add_argument("--json", type=Path)
parser.add_argument("--modes", default="off,exact,fast")
parser.add_argument("--kinds", action="store_true")
parser.add_argument("--profile", action="store_true")
parser.add_argument("--variants", action="store_true")
parser.add_argument("--ahead", action="store_true")
parser.add_argument("--depth", default="19,38", help="double and single blocks")
parser.add_argument("--cpu", action="store_true", help="for a try: one block of each kind, nothing refused")
options = parser.parse_args()
if options.ahead:
    os.environ.setdefault("RYLA_VOLUME", tempfile.mkdtemp())
    os.environ.pop("RYLA_AHEAD", None)
sys.argv = ["main.py", *(["--cpu", "--use-pytorch-cross-attention"] if options.cpu else [])]
sys.path[:0] = [str(options.comfyui), str(REPO / "custom_nodes"), str(REPO / "tests")]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as management  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402, F401 - tells our package that it is inside ComfyUI
import torch  # noqa: E402
from comfyui import true_width  # noqa: E402
from ryla_nodes import settings  # noqa: E402
from ryla_nodes.engines.comfyui import speed  # noqa: E402
from ryla_nodes.engines.protocol import SpeedMode  # noqa: E402
from ryla_nodes.engines.speed import artifact, compiler, layers, machine, making  # noqa: E402

SIZES = ((1024, 1024), (832, 1216), (1216, 832), (768, 768))
REPEATS = 2 if options.cpu else 8
FAILURES = (RuntimeError, OSError, AssertionError, TypeError, ValueError, LookupError, AttributeError)
# Of inductor. Rows of 3,072 to 12,288 are reduced in loops unless it is told to hold one whole.
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "multi_kernel 1": {"triton.multi_kernel": 1},
    "multi_kernel 2": {"triton.multi_kernel": 2},
    "coordinate descent": {"coordinate_descent_tuning": True},
    "pointwise autotuned": {"max_autotune_pointwise": True},
}


def load() -> Any:
    """A MODEL of noise, on the GPU."""
    device = management.get_torch_device()
    shapes = true_width.shapes(*((1, 1) if options.cpu else map(int, options.depth.split(","))))
    generator = torch.Generator(device).manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("scale"):
            state[name] = torch.ones(shape, dtype=torch.bfloat16, device=device)
        else:
            deviation = 0.02 if name.endswith("bias") else 0.7 * shape[-1] ** -0.5
            noise = torch.randn(shape, generator=generator, dtype=torch.bfloat16, device=device)
            state[name] = noise * deviation
    model = comfy.sd.load_diffusion_model_state_dict({name: value.cpu() for name, value in state.items()})
    del state
    management.load_models_gpu([model])
    return model


class Step:
    """Runs a MODEL at one size."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = model.load_device
        model.pre_run()

    def inputs(self, width: int, height: int, tokens: int = 256) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(1)

        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        return {
            "x": noise(1, 16, height // 8, width // 8),
            "t": torch.full((1,), 0.7, device=self.device),
            "c_crossattn": noise(1, tokens, 4096) * 0.3,
            "y": noise(1, 768),
            "guidance": torch.full((1,), 3.5, device=self.device),
        }

    def run(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The velocity."""
        model.model.current_patcher = model
        given = {**inputs, "x": inputs["x"].clone()}
        out = model.model.apply_model(**given, transformer_options={"wrappers": model.wrappers})
        return (inputs["x"] - out) / 0.7

    def seconds(self, model: Any, inputs: dict[str, Any]) -> float:
        """Of one call, to its end."""
        self.wait()
        began = time.perf_counter()
        self.run(model, inputs)
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def measure(step: Step, mode: str, reference: dict[Any, torch.Tensor]) -> dict[str, Any]:
    """All figures of a mode; ``reference`` gets the velocities of ``off``."""
    model, report = speed.accelerate(step.model, mode)
    row: dict[str, Any] = {"row": "step", "mode": mode, "report": report}
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for size in SIZES[:1] if options.cpu else SIZES:
        inputs = step.inputs(*(64, 64) if options.cpu else size)
        name = "x".join(map(str, size))
        row[f"first_s {name}"] = round(step.seconds(model, inputs), 2)
        seconds = [step.seconds(model, inputs) for _ in range(REPEATS)]
        row[f"ms {name}"] = round(statistics.median(seconds) * 1000, 1)
        velocity = step.run(model, inputs)
        reference.setdefault(size, velocity)
        row[f"error {name}"] = round(error(velocity, reference[size]), 5)
    if not options.cpu:
        for tokens, batch in ((512, 1), (256, 2)):
            inputs = step.inputs(1024, 1024, tokens)
            inputs = {key: value.repeat(batch, *[1] * (value.ndim - 1)) for key, value in inputs.items()}
            row[f"first_s tokens {tokens} batch {batch}"] = round(step.seconds(model, inputs), 2)
            row[f"ms tokens {tokens} batch {batch}"] = round(step.seconds(model, inputs) * 1000, 1)
        row["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        row["allocated_gb"] = round(torch.cuda.memory_allocated() / 1e9, 2)
    row["graphs"] = torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)
    row["breaks"] = sum(torch._dynamo.utils.counters["graph_break"].values())
    return row


def by_kind(step: Step, reference: torch.Tensor) -> dict[str, Any]:
    """The error with one kind of layer in 8 bits, and with all of them; nothing is compiled for it."""
    row: dict[str, Any] = {"row": "kinds"}
    inputs = step.inputs(*(64, 64) if options.cpu else SIZES[0])
    compiled, chosen = compiler.run, speed._places
    compiler.run = lambda function, block, tensors, lengths, kept: function(block, *tensors)
    for kinds in (*((kind,) for kind in layers.KINDS), layers.KINDS):
        speed._kept.clear()
        speed._places = lambda network, kinds=kinds: layers.places(network.double_blocks, network.single_blocks, kinds)
        velocity = step.run(speed.accelerate(step.model, "fast")[0], inputs)
        row["all" if kinds == layers.KINDS else kinds[0]] = round(error(velocity, reference), 5)
    speed._kept.clear()
    compiler.run, speed._places = compiled, chosen
    return row


def ahead(step: Step, mode: SpeedMode) -> dict[str, Any]:
    """A mode compiled as ever, then with packages that a process of its own makes; seconds, and milliseconds a step.

    Each stage is named before it begins: what goes wrong in a package may end the process.
    """
    model, said = speed.accelerate(step.model, mode)
    inputs = step.inputs(*(64, 64) if options.cpu else SIZES[0], tokens=512)
    row: dict[str, Any] = {"row": "ahead", "mode": mode, "report": said}
    row |= {f"compiled_{name}": value for name, value in _timed(step, model, inputs, f"{mode}, compiled").items()}
    velocity = step.run(model, inputs)
    began = _stage(f"{mode}: making packages")
    making.wait()
    row["making_s"] = round(time.perf_counter() - began, 1)
    row["refused"] = [json.loads(path.read_bytes())["reason"] for path in _volume().glob("cache/*/*.refused")]
    artifact.forget()
    began = _stage(f"{mode}: loading packages")
    row["ahead_found"] = artifact.load_ahead(_volume(), mode, step.device)
    row["ahead_load_s"] = round(time.perf_counter() - began, 3)
    compiled, calls = compiler._compiled, []
    compiler._compiled = lambda function: calls.append(1) or compiled(function)
    row |= {f"ahead_{name}": value for name, value in _timed(step, model, inputs, f"{mode}, ahead").items()}
    made = step.run(model, inputs)
    compiler._compiled = compiled
    row["ahead_not_served"] = len(calls)
    row["largest_difference"] = float((made - velocity).abs().max() / velocity.abs().max())
    row["error"] = error(made, velocity)
    return row


def _volume() -> Path:
    volume = settings.load().volume
    assert volume is not None
    return volume


def _stage(name: str) -> float:
    """Say what begins, and when."""
    print(f"-- {name}", flush=True)
    return time.perf_counter()


def _timed(step: Step, model: Any, inputs: dict[str, Any], name: str) -> dict[str, Any]:
    _stage(f"{name}: first step")
    first = step.seconds(model, inputs)
    _stage(f"{name}: {REPEATS} steps")
    warm = statistics.median(step.seconds(model, inputs) for _ in range(REPEATS))
    _stage(f"{name}: a step with a profiler")
    return {"first_s": round(first, 2), "ms": round(warm * 1000, 2), "attention": _attention(step, model, inputs)}


def _attention(step: Step, model: Any, inputs: dict[str, Any]) -> list[str]:
    """The names of the kernels that attend, as far as they tell."""
    with torch.profiler.profile() as seen:
        step.seconds(model, inputs)
    words = ("flash", "fmha", "cudnn", "sdpa", "attention")
    return sorted({each.key[:90] for each in seen.key_averages() if any(word in each.key.lower() for word in words)})


def variants(step: Step, reference: torch.Tensor) -> Iterator[dict[str, Any]]:
    """A row for each of VARIANTS: `fast` compiled anew with it."""
    inputs = step.inputs(*(64, 64) if options.cpu else SIZES[0])
    compile_ = torch.compile
    for name, chosen in VARIANTS.items():
        torch.compile = partial(compile_, options=chosen) if chosen else compile_
        yield _variant(step, name, inputs, reference)
    torch.compile = compile_


def _variant(step: Step, name: str, inputs: dict[str, Any], reference: torch.Tensor) -> dict[str, Any]:
    """`fast`, compiled anew."""
    compiler._compiled.cache_clear()
    torch._dynamo.reset()
    row: dict[str, Any] = {"row": "variants", "name": name}
    try:
        model, _ = speed.accelerate(step.model, "fast")
        row["first_s"] = round(step.seconds(model, inputs), 2)
        seconds = sorted(step.seconds(model, inputs) for _ in range(REPEATS))
        row["ms"] = [round(each * 1000, 1) for each in (seconds[0], statistics.median(seconds))]
        row["error"] = round(error(step.run(model, inputs), reference), 5)
        row["failed"] = [line[:300] for line in compiler._failed.values()]
    except FAILURES as failure:  # One of them must not cost the others.
        row["failed"] = repr(failure)[:600]
    compiler._failed.clear()
    return row


def profile(step: Step, mode: str) -> dict[str, Any]:
    """The kernels that take longest in one step: name, calls, milliseconds."""
    model, _ = speed.accelerate(step.model, mode)
    inputs = step.inputs(*SIZES[0])
    step.seconds(model, inputs)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        step.seconds(model, inputs)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    top = [[event.key[:110], event.count, round(event.self_device_time_total / 1000, 2)] for event in events[:30]]
    total = sum(event.self_device_time_total for event in events) / 1000
    return {"row": "profile", "mode": mode, "total_ms": round(total, 1), "kernels": top}


def main() -> None:
    if options.cpu:
        machine.refusal = lambda mode, device: None
    rows: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))

    with torch.inference_mode():
        step = Step(load())
        if options.ahead:
            faulthandler.enable()
            logging.getLogger().setLevel(logging.INFO)
            for mode in ("exact", "fast"):
                add(ahead(step, mode))
            return
        reference: dict[Any, torch.Tensor] = {}
        for mode in options.modes.split(","):
            add(measure(step, mode, reference))
        if options.variants:
            for row in variants(step, reference[SIZES[0]]):
                add(row)
        if options.profile:
            for mode in options.modes.split(","):
                add(profile(step, mode))
        if options.kinds:
            add(by_kind(step, reference[SIZES[0]]))


if __name__ == "__main__":
    main()
