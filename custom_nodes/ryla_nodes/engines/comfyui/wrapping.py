"""What the modes of ``speed`` hang on a MODEL of ComfyUI: taken away, why it cannot act, and how that is told."""

from __future__ import annotations

import logging
import sys
from typing import Any

from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_execution.utils import get_executing_context

from ..speed import report

KEY = report.WRAPPER
_KINDS = (
    WrappersMP.APPLY_MODEL,
    WrappersMP.CALC_COND_BATCH,
    WrappersMP.DIFFUSION_MODEL,
    WrappersMP.SAMPLER_SAMPLE,
)
_said: set[str] = set()
_told: list[tuple[str, str, str]] = []  # The last line that was shown, with its job and node.


def without(model: Any) -> Any:
    """``model``, or a clone of it without our wrappers."""
    if not any(model.get_wrappers(kind, KEY) for kind in _KINDS):
        return model
    clone = model.clone()
    for kind in _KINDS:
        clone.remove_wrappers_with_key(kind, KEY)
    clone.remove_callbacks_with_key(CallbacksMP.ON_DETACH, KEY)
    return clone


def misplaced(model: Any) -> str | None:
    """Why the weights of a MODEL will not stay where they are while it samples."""
    if getattr(model, "is_dynamic", bool)():
        return "ComfyUI places its weights dynamically (start ComfyUI with --disable-dynamic-vram)"
    return None


def hindrance(base: Any) -> str | None:
    """Why the weights that are loaded now are not the model's own, all of them on the card."""
    if base.model_lowvram:
        return "the model is only partly on the card"
    if base.current_patcher is not None and base.current_patcher.hook_patches:
        return "hooks change its weights"
    return None


def say_once(line: str) -> None:
    """Log a line, the first time only."""
    if line not in _said:
        _said.add(line)
        logging.warning("ryla: %s", line)


def tell(line: str) -> None:
    """Show a line on the node that runs, once until it changes or another job comes."""
    server, context = sys.modules.get("server"), get_executing_context()
    if server is None or context is None:
        return
    told = (context.prompt_id, context.node_id, line)
    if _told[-1:] != [told]:
        _told[:] = [told]
        server.PromptServer.instance.send_progress_text(line, context.node_id)
