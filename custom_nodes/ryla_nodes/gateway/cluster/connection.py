"""A Ray cluster as the gateway sees it: one deployment of engines behind a Serve handle."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from ...errors import RylaError
from .messages import Order, ReplicaSight, Report
from .options import APPLICATION, BUS, EngineOptions

log = logging.getLogger(__name__)

LOCAL = "local"
"""In the place of an address: a cluster of this machine alone, which ends with this process."""

_ASK_SECONDS = 10.0
_TRIES = 15
_PAUSE = 1.0
_NAMESPACE = "ryla"


class Cluster:
    """A deployment that is there, or is being made.

    Args:
        handle: of its deployment of engines.
        bus: of that which asks them all.
        own: it was started by this process, and ends with it.
    """

    def __init__(self, handle: Any, bus: Any, *, own: bool) -> None:
        self._handle, self._bus, self._own = handle, bus, own

    @classmethod
    def connect(cls, address: str, options: EngineOptions | None) -> Cluster:
        """Join a cluster, or start one, and deploy engines on it.

        Args:
            address: ``HOST:PORT``, ``auto`` for the cluster that this machine belongs to, or ``LOCAL``.
            options: what to deploy; None takes what is deployed, and the embedded engine where nothing is.

        Raises:
            RylaError: ``cluster_unreachable``.
        """
        if address.startswith("ray://"):
            message = f"{address} is the address of a Ray client, through which no handle of Serve works."
            raise RylaError("cluster_unreachable", message, hint="Run this on a node of the cluster: --ray auto")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        where = {} if address == LOCAL else {"address": address}
        try:
            ray.init(
                **where, namespace=_NAMESPACE, include_dashboard=None if where else False, log_to_driver=False,
                logging_level=logging.ERROR, configure_logging=True, ignore_reinit_error=True,
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            message = f"The Ray cluster {address} cannot be joined: {str(error).splitlines()[0]}"
            raise RylaError("cluster_unreachable", message) from error
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        return cls(_deployed(options), DeploymentHandle(BUS, APPLICATION), own=not where)

    def close(self) -> None:
        """Let go of the deployment, in the event loop of its calls; a cluster of this machine alone ends."""
        self._handle.shutdown()
        self._bus.shutdown()
        if self._own:
            ray.shutdown()

    # --- jobs ------------------------------------------------------------------------------------------------------

    def run(self, order: Order, near: str) -> Any:
        """A job's reports, as a Serve response that may be cancelled; it waits in Serve's queue for a replica."""
        return self._handle.options(stream=True, multiplexed_model_id=near).run.remote(order)

    async def told(self, response: Any) -> AsyncIterator[Report]:
        """The reports of a response.

        Raises:
            ReplicaLost: the replica went away.
            NoReplicas: the deployment has failed.
        """
        try:
            async for report in response:
                yield report
        except DeploymentUnavailableError as error:
            raise NoReplicas(_last_line(error)) from error
        except (RayError, RayServeException) as error:
            raise ReplicaLost(_last_line(error)) from error

    async def ask(self, method: str, *arguments: Any, seconds: float | None = _ASK_SECONDS) -> dict[str, Any]:
        """The answers of the replicas that are there, by their names.

        Args:
            seconds: how long an answer may take; None for any time.

        Raises:
            RylaError: ``cluster_unreachable``.
        """
        late = None if seconds is None else seconds + _ASK_SECONDS
        try:
            answers = await asyncio.wait_for(self._bus.ask.remote(method, arguments, seconds), late)
        except (RayError, RayServeException, asyncio.TimeoutError) as error:
            raise RylaError("cluster_unreachable", f"The replicas of the cluster cannot be asked: {error}.") from error
        return dict(answers)

    async def ask_all(self, method: str, *arguments: Any, seconds: float | None) -> list[Any]:
        """As ``ask``, but asks again until every replica that Serve says to run has answered, for a while.

        Raises:
            RylaError: ``cluster_unreachable``.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                answers = await self.ask(method, *arguments, seconds=seconds)
                _, _, running, _ = await self.status()
                if len(answers) >= running or any(answer is not None for answer in answers.values()) or not tries_left:
                    return list(answers.values())
            except RylaError:
                if not tries_left:
                    raise
            await asyncio.sleep(_PAUSE)
        return []

    # --- how it is -------------------------------------------------------------------------------------------------

    async def sights(self, classes: list[str], folders: list[str]) -> list[ReplicaSight]:
        """What each replica tells of itself."""
        try:
            found = await self.ask("sight", classes, folders)
        except RylaError:
            return []
        return list(found.values())

    async def status(self) -> tuple[str, str, int, int]:
        """State of the application, what Serve says of it, and how many replicas run and start.

        Raises:
            RylaError: ``cluster_unreachable``.
        """
        try:
            return await asyncio.wait_for(asyncio.to_thread(self._status), _ASK_SECONDS)
        except (RayError, RayServeException, asyncio.TimeoutError, OSError) as error:
            raise RylaError("cluster_unreachable", f"The Ray cluster does not answer: {error}.") from error

    def _status(self) -> tuple[str, str, int, int]:
        application = serve.status().applications.get(APPLICATION)
        if application is None:
            return "NOT_STARTED", "Nothing is deployed.", 0, 0
        deployment = application.deployments.get(self._handle.deployment_name)
        states = deployment.replica_states if deployment is not None else {}
        counts = {str(getattr(state, "value", state)): count for state, count in states.items()}
        said = "\n".join(text for text in (application.message, deployment.message if deployment else "") if text)
        return application.status.value, said, counts.get("RUNNING", 0), counts.get("STARTING", 0)

    @staticmethod
    def gpus() -> float:
        """How many GPUs the nodes of the cluster have, by their own word."""
        with suppress(RayError):
            return float(ray.cluster_resources().get("GPU", 0.0))
        return 0.0


class ReplicaLost(Exception):
    """A replica went away, or was not reached, while it had a job."""


class NoReplicas(Exception):
    """Serve takes no job for this deployment."""


def _last_line(error: Exception) -> str:
    """What went wrong: before it stands where, over many lines."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _deployed(options: EngineOptions | None) -> Any:
    """The handle of what is deployed; deployed now, without waiting for it, where ``options`` say so."""
    from .app import application

    there = serve.status().applications.get(APPLICATION)
    names = [name for name in there.deployments if name != BUS] if there is not None else []
    wanted = options or EngineOptions()
    # The same again is left alone: Serve would replace every replica.
    name = names[0] if options is None and names else f"{wanted.kind}-{wanted.digest}"
    if name not in names:
        target = serve.RunTarget(application(wanted, name), name=APPLICATION, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)
    # A handle belongs to the event loop of its first call, so it is not one that Serve keeps for all.
    return DeploymentHandle(name, APPLICATION)
