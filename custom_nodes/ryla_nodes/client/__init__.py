"""Run workflows on ComfyUI or on the embedded engine: the right answer under every fault. See docs/runner.md."""

from .actions import State
from .api import EngineInfo
from .async_client import AsyncClient, EngineStatus, from_graph
from .attempt import Submission
from .job import Job
from .limits import Limits
from .pictures import Format, Picture
from .progress import Phase, Progress
from .results import Result, Timings
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
