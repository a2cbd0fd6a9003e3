"""Whether a cluster can serve jobs: what Serve says, and what its replicas tell."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ...errors import RylaError
from ...workflows.graph import Graph
from ..probe import Lack, Lookout, Sight
from ..problems import redact
from .connection import Cluster
from .messages import ReplicaSight
from .options import EngineOptions, pack_version

_EVERY_SECONDS = 4.0
_PATIENCE = 60.0
"""Seconds that a replica may take to start before it is said that it does."""


class ClusterLookout(Lookout):
    """Looks at a cluster.

    Args:
        options: what was deployed by this process; None when it was there.
    """

    def __init__(
        self, cluster: Cluster, options: EngineOptions | None, graphs: Mapping[str, Graph], folders: Iterable[str]
    ) -> None:
        super().__init__("ray", graphs, folders)
        self._cluster, self._options = cluster, options
        self._gpus: dict[str, str] = {}
        self._asked = float("-inf")
        self._sights: list[ReplicaSight] = []
        self._starting_since: float | None = None

    async def aclose(self) -> None:
        return None

    def gpu_of(self, server: str) -> str:
        return self._gpus.get(server, "")

    async def look(self) -> None:
        try:
            state, said, running, starting = await self._cluster.status()
        except RylaError as error:
            self.sight = replace(self.sight, up=False, replicas=0, lacks=(Lack("cluster", error.message, error.hint),))
            return
        await self._ask(running)
        lacks = self._versions() or self._lacks(state, said, running, starting)
        sound = [each.sight for each in self._sights if each.sight.up and not each.sight.lacks]
        first = (sound or [self.sight])[0]
        self.sight = Sight(
            up=not lacks,
            version=first.version,
            gpu=first.gpu,
            embedded=first.embedded,
            queued=sum(each.queued for each in sound),
            lacks=tuple(lacks),
            inventory=first.inventory,
            models=first.models,
            replicas=running,
        )

    async def _ask(self, running: int) -> None:
        if not running:
            self._sights = []
        elif time.monotonic() - self._asked > _EVERY_SECONDS or not self._sights:
            self._asked = time.monotonic()
            self._sights = await self._cluster.sights(self._classes, self._folders)
            self._gpus.update({each.name: each.sight.gpu for each in self._sights})

    def _versions(self) -> list[Lack]:
        others = sorted({each.version for each in self._sights if each.version != pack_version()})
        if not others:
            return []
        message = (
            f"This gateway has version {pack_version()} of ryla-nodes, and engines of its cluster have {others[0]}."
        )
        return [Lack("version", message, RylaError("pack_versions_differ", message).hint)]

    def _lacks(self, state: str, said: str, running: int, starting: int) -> list[Lack]:
        """What keeps all replicas from working; a cluster that has none just now, and may have some, lacks nothing."""
        if any(each.sight.up and not each.sight.lacks for each in self._sights):
            self._starting_since = None
            return []
        if self._sights:
            return [lack for each in self._sights for lack in each.sight.lacks]
        if state in ("DEPLOY_FAILED", "UNHEALTHY", "NOT_STARTED") and not running:
            return [_failure(said)]
        if not starting:
            self._starting_since = None
            return []
        return self._slow(starting)

    def _slow(self, starting: int) -> list[Lack]:
        self._starting_since = self._starting_since or time.monotonic()
        wanted = self._options.gpus if self._options is not None else 0.0
        if wanted and self._cluster.gpus() < wanted:
            message = f"{starting} replicas wait for {wanted:g} GPU each, and the nodes of the cluster have none."
            return [Lack("gpu", message, RylaError("gpu_missing", message).hint)]
        waited = time.monotonic() - self._starting_since
        if waited < _PATIENCE:
            return [Lack("engine", f"{starting} replicas start.", "Wait: the first start is the slowest.")]
        message = f"{starting} replicas start since {waited:.0f} s."
        return [Lack("engine", message, "Look at their logs: ray status, serve status")]


def _failure(said: str) -> Lack:
    """A deployment that failed; the error that its replica raised, when it is one of ours."""
    ours = RylaError.parse_all(said)
    if ours:
        error = ours[-1]
        # Before it stands the traceback of Serve.
        message = error.message.rpartition("RylaError: ")[2]
        return Lack("engine", redact(message), error.hint)
    return Lack("engine", redact(_end(said.splitlines())), "serve status")


def _end(lines: Sequence[str]) -> str:
    return "\n".join(lines[-5:]) or "The deployment failed."
