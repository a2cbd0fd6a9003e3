"""Run workflows on ComfyUI or on the embedded engine: the right answer under every fault. See docs/runner.md."""

from .api import EngineInfo
from .async_client import AsyncClient, EngineStatus, from_graph
from .job import Job, Submission
from .limits import Limits
from .polling import Phase, Progress
from .protocol import State
from .results import Format, Picture, Result, Timings
from .sync_client import Client

__all__ = [
    "AsyncClient",
    "Client",
    "EngineInfo",
    "EngineStatus",
    "Format",
    "Job",
    "Limits",
    "Phase",
    "Picture",
    "Progress",
    "Result",
    "State",
    "Submission",
    "Timings",
    "from_graph",
]
