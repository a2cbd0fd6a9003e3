"""A ComfyUI pack for benchmarks: what the GPU and the identity code have done since the last reset, over HTTP.

`POST /ryla_bench/reset`, then `GET /ryla_bench/report`.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import comfy.model_management
import execution
import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, type] = {}


class Counts:
    """What ran since the last reset."""

    layers: set[tuple[Any, ...]] = set()
    resampler_passes = 0
    nodes: defaultdict[str, float] = defaultdict(float)
    watching = False


def _module(name: str) -> Any:
    """A module of our pack, under whatever name ComfyUI has loaded it."""
    package = next(key for key in sys.modules if key.endswith("ryla_nodes"))
    return importlib.import_module(f"{package}.{name}")


def _watch() -> None:
    """Count, from now on, the layers that an identity reaches and the passes of the Resampler."""
    if Counts.watching:
        return
    Counts.watching = True
    patch, adapter = _module("engines.comfyui.instantid").IdentityPatch, _module("identity.adapter")
    call, resample = patch.__call__, adapter.resample

    def counted_call(self: Any, q: Any, k: Any, v: Any, extra_options: dict[str, Any]) -> Any:
        Counts.layers.add((*extra_options["block"], extra_options["block_index"]))
        return call(self, q, k, v, extra_options)

    def counted_resample(*arguments: Any) -> Any:
        Counts.resampler_passes += 1
        return resample(*arguments)

    patch.__call__, adapter.resample = counted_call, counted_resample
    execution.get_output_data = _timed(execution.get_output_data)


def _timed(run: Any) -> Any:
    """Note the seconds that each node takes, to the end of what it left to the GPU."""

    async def timed(prompt: Any, node: Any, instance: Any, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return await run(prompt, node, instance, *arguments, **options)
        finally:
            if comfy.model_management.get_torch_device().type == "cuda":
                torch.cuda.synchronize()
            kind = instance if isinstance(instance, type) else type(instance)
            Counts.nodes[f"{node} {kind.__name__}"] += time.perf_counter() - began

    return timed


def _memory() -> dict[str, Any]:
    """Peaks of PyTorch's allocator; nothing on a CPU."""
    if comfy.model_management.get_torch_device().type != "cuda":
        return {"peak_allocated_gb": None, "peak_reserved_gb": None}
    return {
        "peak_allocated_gb": torch.cuda.max_memory_allocated() / 1e9,
        "peak_reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
    }


def _identity() -> dict[str, Any]:
    """Bytes of adapter files that are mapped into this process, and the keys and values that are kept instead."""
    kind = _module("identity.adapter").Adapter
    adapters = [thing for thing in gc.get_objects() if type(thing) is kind]
    paths = {str(adapter.path) for adapter in adapters}
    kept = [identity for adapter in adapters for identity in adapter._cache.values()]
    return {
        "adapter_mapped_bytes": sum(size for path, size in _mappings() if path in paths),
        "kv_mb": [round(identity.nbytes / 1e6, 3) for identity in kept],
        "kv_dtype": sorted({str(identity.layers[0].cond_k.dtype) for identity in kept}),
    }


def _mappings() -> list[tuple[str, int]]:
    """The files that are mapped into this process, with their bytes (Linux)."""
    maps = Path("/proc/self/maps")
    lines = [line.split(maxsplit=5) for line in maps.read_text().splitlines()] if maps.exists() else []
    ranges = [(line[5], *(int(end, 16) for end in line[0].split("-"))) for line in lines if len(line) == 6]
    return [(path, end - start) for path, start, end in ranges]


@PromptServer.instance.routes.post("/ryla_bench/reset")
async def reset(_: web.Request) -> web.Response:
    _watch()
    Counts.layers, Counts.resampler_passes = set(), 0
    Counts.nodes.clear()
    if comfy.model_management.get_torch_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return web.json_response({})


@PromptServer.instance.routes.get("/ryla_bench/report")
async def report(_: web.Request) -> web.Response:
    counts = {"layers_reached": len(Counts.layers), "resampler_passes": Counts.resampler_passes}
    counts["node_seconds"] = {name: round(seconds, 3) for name, seconds in Counts.nodes.items() if seconds > 0.005}
    return web.json_response({**_memory(), **counts, **_identity()})
