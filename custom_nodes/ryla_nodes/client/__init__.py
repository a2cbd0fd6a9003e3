"""Run workflows on ComfyUI, the embedded engine or a gateway: the right answer under every fault (docs/runner.md)."""

from .async_client import AsyncClient, EngineStatus, from_graph
from .engine_info import EngineInfo
from .gateway.client import AsyncGatewayClient, GatewayClient
from .gateway.result import GatewayResult
from .job import Job, Submission
from .limits import Limits
from .polling import Phase, Progress
from .previews import Preview
from .protocol import State
from .results import Format, Picture, Result, Timings
from .sync_client import Client

__all__ = [
    "AsyncClient",
    "AsyncGatewayClient",
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
