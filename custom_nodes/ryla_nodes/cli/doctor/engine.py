"""The embedded engine: whether it can serve FLUX.1 Dev on this machine's GPU, and how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...models.catalogue import Catalogue
from .finding import Finding, ok, warning

_MODULES = ("torch", "tokenizers", "sentencepiece", "scipy", "torchsde", "aiohttp")
_INSTALL = f"{sys.executable} -m pip install 'ryla-nodes[embedded]'"
_CUDA = "Install a torch for CUDA: https://pytorch.org/get-started/locally"
_WORKING_SPACE = 4 << 30
_GIB = 1 << 30
_PROBE = "ryla_nodes.engines.embedded.gpu_probe"
_PACKAGE = Path(__file__).resolve().parents[2]


def check(
    gpu: bool, alone: bool, workflows: Mapping[str, Sequence[str]], catalogue: Catalogue, volume: Path | None
) -> Iterator[Finding]:
    """What stands between the embedded engine and a GPU.

    Args:
        gpu: whether the machine has one. alone: whether there is no ComfyUI, so that this engine is all there is.
    """
    lacking = [name for name in _MODULES if find_spec(name) is None]
    if lacking:
        yield _or_ok(alone, f"The embedded engine lacks {', '.join(lacking)}.", _INSTALL)
        return
    found = _ask()
    if isinstance(found, Finding):
        yield found
    elif found["gpu"]:
        yield from _on_gpu(found, workflows, catalogue, volume)
    else:
        text = f"The embedded engine paints on the CPU (torch {found['torch']})"
        yield _or_ok(alone, f"{text}, though there is a GPU.", _CUDA) if gpu else ok("engine", f"{text}.")


def _or_ok(matters: bool, text: str, fix: str) -> Finding:
    return warning("engine", text, fix) if matters else ok("engine", f"{text} ComfyUI is there.")


def _ask() -> dict[str, Any] | Finding:
    """What its process tells; a finding when it cannot."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True, env=environ)
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip().splitlines() or [f"exit status {error.returncode}"]
        return warning("engine", f"The embedded engine does not start: {reason[-1]}", _INSTALL)
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return warning("engine", f"The embedded engine does not start: {error}", _INSTALL)


def _on_gpu(
    found: Mapping[str, Any], workflows: Mapping[str, Sequence[str]], catalogue: Catalogue, volume: Path | None
) -> Iterator[Finding]:
    memory = int(found["memory"])
    card = f"{found['gpu']}, {memory / _GIB:.0f} GiB"
    yield ok("engine", f"The embedded engine paints on {card} (torch {found['torch']}).")
    for name, ids in workflows.items():
        wanted = sum(catalogue.get(model_id).size or 0 for model_id in ids) + _WORKING_SPACE
        if memory < wanted:
            text = f"{name} takes {wanted / _GIB:.0f} GiB on the embedded engine, which moves nothing out of the card."
            yield warning("engine memory", text, f"Serve {name} from a ComfyUI: ryla serve --server URL")
    refused = {mode: reason for mode, reason in found["refusals"].items() if reason}
    if not refused:
        yield ok("engine speed", f"{' and '.join(found['refusals'])} can be had")
    for mode, reason in refused.items():
        text = f"speed {mode} cannot be had: {reason}."
        yield warning("engine speed", text, "Install what it names, or leave speed at off.")
    if volume is None:
        text = "What is compiled is not kept beyond the process, and 8-bit weights are not at all."
        yield warning("engine cache", text, "Set RYLA_VOLUME to a folder that stays.")
