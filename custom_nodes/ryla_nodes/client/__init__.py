"""Run workflows on ComfyUI, the embedded engine or a gateway: the right answer under every fault (docs/runner.md)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .async_client import AsyncClient, EngineStatus, from_graph
from .job import Job, Submission
from .limits import Limits
from .polling import Phase, Progress
from .protocol import State
from .results import Format, Picture, Result, Timings
from .sync_client import Client
from .transport import EngineInfo
from .websocket import Preview

if TYPE_CHECKING:
    from .gateway.client import AsyncGatewayClient, GatewayClient
    from .gateway.result import GatewayResult
    from .scores import Candidate

# Imported when they are asked for: most jobs need none of it.
_LATER = {
    "AsyncGatewayClient": ".gateway.client",
    "Candidate": ".scores",
    "GatewayClient": ".gateway.client",
    "GatewayResult": ".gateway.result",
}

__all__ = [
    "AsyncClient",
    "AsyncGatewayClient",
    "Candidate",
    "Client",
    "EngineInfo",
    "EngineStatus",
    "Format",
    "GatewayClient",
    "GatewayResult",
    "Job",
    "Limits",
    "Phase",
    "Picture",
    "Preview",
    "Progress",
    "Result",
    "State",
    "Submission",
    "Timings",
    "from_graph",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)
