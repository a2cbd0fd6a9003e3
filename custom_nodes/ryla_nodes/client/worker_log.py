"""Whether a ComfyUI's worker thread is dead, told from its log. Pure.

An exception that is not an ``Exception``, or one outside of a node, ends the thread that runs prompts; the HTTP server
lives on and takes prompts for ever. Python then prints a traceback that ComfyUI did not log itself: no line about a
processing error before it, and no "Prompt executed" after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ENDED = "Prompt executed in"
_HANDLED = "!!! Exception during processing !!!"
# ComfyUI keeps the last 300 pieces of its log, and a traceback is printed in many: its beginning may be gone.
_WORKER_FRAMES = re.compile(
    r"Exception in thread \S+ \(prompt_worker\)|, in prompt_worker\b"
    r'|execution\.py", line \d+, in (?:execute\w*|get_output_data|_async_map_node_over_list|process_inputs)\b'
)


def text_of(body: Any) -> str:
    """The log's text from the JSON of ``/internal/logs/raw``; "" when it is something else."""
    entries = body.get("entries") if isinstance(body, Mapping) else None
    pieces = entries if isinstance(entries, list) else []
    return "".join(str(piece.get("m", "")) for piece in pieces if isinstance(piece, Mapping))


def tells_of_death(log: str) -> bool:
    """Whether the last thing that the worker did was to die."""
    since = log.rpartition(_ENDED)[2]
    return _HANDLED not in since and _WORKER_FRAMES.search(since) is not None
