"""Blocks that ran compiled are packaged for the processes that come: by a process of its own, once no block runs.

It is a process since tracing would hold up whatever else Python does here, and it has low priority.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from . import artifact, child, flags, refusals
from .artifact import Call, Kept
from .layout import Layout, layout_of
from .traced import own_name

_IDLE_S = 3.0
# What the processes take of a GPU: a context each, a layer or two while kernels are tuned, a block to try it with.
_FREE_BYTES = 3 << 30


@dataclass(frozen=True)
class Order:
    """What is to be packaged; its tensors and the block's have no memory.

    Attributes:
        facts: those of the package.
        flags: those of the process that wants it.
        call: with tensors on the meta device.
        device: where it is to run.
    """

    facts: dict[str, Any]
    flags: flags.Flags
    call: Call
    device: torch.device


_orders: dict[Path, bytes] = {}
_seen: set[Path] = set()
_layouts: WeakSet[Layout] = WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None
_last = 0.0
_running = 0
_niceness = 19


@contextmanager
def running() -> Iterator[None]:
    """While a block runs, or is compiled for it, nothing is made."""
    global _running, _last
    with _lock:
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
        _last = time.monotonic()


def want(call: Call) -> None:
    """Have a package made for ``call``, which has just run compiled, unless there is one."""
    global _thread
    layout = layout_of(call.block)
    if layout in _layouts:
        return
    facts = artifact.facts_of(call)
    if facts is None:
        return
    _layouts.add(layout)
    path = artifact.path_of(call.kept.folder, facts)
    if path in _seen or artifact.opened(path, call.device) is not None or not os.access(path.parent, os.W_OK):
        return
    if refusals.is_refused(path):
        return
    _seen.add(path)
    try:
        order = pickle.dumps(Order(facts, flags.read(), _without_memory(call), call.device))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        logging.warning("ryla: blocks are not compiled ahead: %s", error)
        return
    with _lock:
        _orders[path] = order
        if _thread is None:
            _thread = threading.Thread(target=_attend, name="ryla-making", daemon=True)
            _thread.start()


def wait() -> None:
    """Have all that is wanted made now, not in the background, and wait for it."""
    global _last, _niceness
    _last, _niceness = 0.0, 0
    thread = _thread
    if thread is not None:
        thread.join()


def _without_memory(call: Call) -> Call:
    known = {id(each): _meta(each) for each in (*call.block.parameters(), *call.block.buffers())}
    block = copy.deepcopy(call.block, known)
    kept = Kept(call.kept.folder, call.kept.mode, tuple(map(own_name, call.kept.traced)))
    return Call(kept, call.function, block, [_meta(each) for each in call.tensors], call.lengths)


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made


def _attend() -> None:
    """Wait until no block has run for a while, and have made what is wanted, until nothing is."""
    global _thread
    while True:
        while _running or time.monotonic() - _last < _IDLE_S:
            time.sleep(0.1)
        with _lock:
            orders = dict(_orders)
            _orders.clear()
            if not orders:
                _thread = None
                return
        _make(list(orders.values()))


def _make(orders: list[bytes]) -> None:
    """Have made what can be, until something is missing that the others would miss as well.

    Each has a process of its own: the compiler knows kernels by names, which those of two packages may share.
    """
    for order in orders:
        if not _make_one(order):
            return


def _make_one(pickled: bytes) -> bool:
    """Whether it is worth while to go on. What cannot be made is noted."""
    order: Order = pickle.loads(pickled)
    if order.device.type == "cuda" and torch.cuda.mem_get_info(order.device)[0] < _FREE_BYTES:
        logging.info("ryla: blocks are not compiled ahead: the GPU has less than %d GiB left", _FREE_BYTES >> 30)
        return False
    began = time.monotonic()
    try:
        ended = child.run("exporting", _niceness, pickled)
    except OSError as error:
        logging.warning("ryla: blocks are not compiled ahead: %s", error)
        return False
    if not ended.reason:
        seconds = time.monotonic() - began
        logging.info("ryla: blocks were compiled ahead for the next process in %.0f s", seconds)
        return True
    logging.warning("ryla: blocks are not compiled ahead: %s", ended.reason)
    logging.debug("%s", "\n".join(ended.said))
    if ended.is_passing:
        return False
    refusals.note(artifact.path_of(order.call.kept.folder, order.facts), order.facts, ended.reason)
    return True
