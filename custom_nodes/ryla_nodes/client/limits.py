"""How patient the runner is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Times in seconds (``submits``: a count).

    Attributes:
        patience: how long to try to reach an engine that refuses connections, before anything was sent.
        gone_after: how long nobody may listen at the address of an accepted job before it counts as lost.
        miss_span: two looks that miss an accepted job must be this far apart before it counts as lost.
        resolve_span: the same after a submit without an answer, before the prompt is posted again.
        submits: how often one prompt is posted at most.
        idle_queue: a queue that waits this long with nothing running has no worker any more.
        doubt_after: with no sign of progress for this long, ask the engine's log whether its worker died.
        cancel_grace: how long to wait for a cancellation to take effect, after Ctrl-C and after the deadline.
        connect: how long a TCP connection may take.
        answer: how long an engine may take over one small answer, from the first byte sent to the last received.
        submit: the same for a submit, which the engine validates first.
        transfer: the same for one uploaded or downloaded file.
        socket: how long to wait for the websocket before submitting without it.
    """

    patience: float = 5.0
    gone_after: float = 30.0
    miss_span: float = 0.5
    resolve_span: float = 2.0
    submits: int = 4
    idle_queue: float = 15.0
    doubt_after: float = 30.0
    cancel_grace: float = 10.0
    connect: float = 3.0
    answer: float = 10.0
    submit: float = 30.0
    transfer: float = 120.0
    socket: float = 1.0
