"""A cluster as what runs a gateway's jobs."""

from __future__ import annotations

from ..backend import Backend
from ..options import Options
from .client import RayClient
from .connection import Cluster
from .lookout import ClusterLookout
from .options import EngineOptions


def cluster(options: Options, address: str, engines: EngineOptions | None) -> Backend:
    """Join or start a cluster; see ``Cluster.connect``.

    Raises:
        RylaError: ``cluster_unreachable``.
    """
    connected = Cluster.connect(address, engines)
    return Backend(
        RayClient(connected, options.settings),
        # Serve has to see the whole queue to know how many replicas are needed.
        options.limits.queued,
        lambda graphs, folders: ClusterLookout(connected, engines, graphs, folders),
    )
