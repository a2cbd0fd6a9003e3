"""The clients of a gateway: ``GatewayClient`` stands where ``Client`` stood, ``AsyncGatewayClient`` is for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from ... import settings as environment
from ...errors import RylaError
from ...settings import Settings
from ...workflows.workflow import BoundPrompt, Workflow, bind
from ..address import Address
from ..async_client import BaseAsyncClient, Runnable
from ..job import Job, Options
from ..limits import Limits
from ..sync_client import SyncClient
from ..transport import CallFailed
from .api import GatewayApi
from .job import GatewayJob
from .patience import Knocking

DEFAULT_GATEWAY = "http://127.0.0.1:8190"


class AsyncGatewayClient(BaseAsyncClient):
    """Runs workflows at a gateway, which may serve others than this machine has; jobs end with a ``GatewayResult``.

    A workflow is named, and its parameters are what the gateway declares: they are checked before any is sent. With
    ``start`` a fault of theirs is the job's own end. A ``Submission`` has the job's Idempotency-Key in the place of the
    engine's id, so ``attach`` posts the same request under the same key: one job, however often that is done.

    Args:
        url: base URL; without it that of ``RYLA_GATEWAY``, else http://127.0.0.1:8190.
        limits: the client's patience.

    Raises:
        RylaError: ``invalid_server``, ``invalid_proxy``, ``invalid_certificate``.
    """

    depth = 8

    def __init__(self, url: str = "", *, limits: Limits = Limits(), settings: Settings | None = None) -> None:
        super().__init__()
        known = settings or environment.load()
        address = Address.parse(url or known.gateway or DEFAULT_GATEWAY, known)
        self._api = GatewayApi(address, limits)
        self._places: dict[int, asyncio.Semaphore] = {}
        self._workflows: dict[str, Workflow] = {}

    @property
    def servers(self) -> tuple[str, ...]:
        """The gateway's base URL, without a login."""
        return (self._api.server,)

    async def aclose(self) -> None:
        """Close the connections. Jobs that still go on are left to the gateway."""
        await self._api.aclose()

    async def versions(self) -> tuple[str, ...]:
        """The versions of the engines behind the gateway that it reaches."""
        try:
            listed = (await self._api.ready()).get("engines")
        except (CallFailed, RylaError):
            return ()
        told = listed if isinstance(listed, list) else []
        return tuple(str(each["version"]) for each in told if isinstance(each, dict) and each.get("version"))

    async def workflow(self, name: str) -> Workflow:
        """What the gateway declares of a workflow: a graph of one node whose inputs are the parameters.

        Raises:
            RylaError: ``unknown_workflow``, ``not_a_gateway``, ``unauthorized``, ``engine_unreachable``.
        """
        knocking = Knocking(self._api.server, self._api.limits, 0.0)
        while name not in self._workflows:
            try:
                self._workflows[name] = await self._api.workflow(name)
            except CallFailed as failure:
                await knocking.after(failure)
        return self._workflows[name]

    async def bound(self, workflow: Runnable, parameters: Mapping[str, object] | None = None) -> BoundPrompt:
        """The prompt of a workflow with these parameters; a bound prompt itself.

        Raises:
            RylaError: as ``workflow``; ``unknown_parameter``, ``missing_parameter``, ``invalid_parameter``.
        """
        if isinstance(workflow, BoundPrompt):
            return workflow
        name = workflow if isinstance(workflow, str) else workflow.name
        return bind(await self.workflow(name), parameters or {})

    def _job(self, workflow: Runnable, parameters: Mapping[str, object] | None, options: Options) -> Job:
        places = None
        if options.depth is not None:
            places = self._places.setdefault(options.depth, asyncio.Semaphore(options.depth))
        given = _unbound(workflow, parameters)
        return GatewayJob(self._api, given, partial(self.bound, workflow, parameters), options, places)

    async def _prompts(self, workflow: str | Workflow, rows: Iterable[Mapping[str, object]]) -> Sequence[BoundPrompt]:
        return [await self.bound(workflow, row) for row in rows]


def _unbound(workflow: Runnable, parameters: Mapping[str, object] | None) -> BoundPrompt:
    """What is known of a prompt before the gateway was asked what the workflow takes."""
    if isinstance(workflow, BoundPrompt):
        return workflow
    name = workflow if isinstance(workflow, str) else workflow.name
    given = {key: value for key, value in (parameters or {}).items() if isinstance(value, str | int | float)}
    return BoundPrompt(name, {}, given, None, (), ())


class GatewayClient(SyncClient[AsyncGatewayClient]):
    """Runs workflows at a gateway: ``AsyncGatewayClient`` for programs without asyncio.

    with GatewayClient("http://127.0.0.1:8190") as client:
        client.run("flux-dev", {"prompt": "a red fox", "seed": 7}).save("fox.jpg")
    """

    def __init__(
        self,
        url: str = "",
        *,
        limits: Limits = Limits(),
        settings: Settings | None = None,
        on_interrupt: Callable[[], None] | None = None,
    ) -> None:
        """Take the arguments of ``AsyncGatewayClient``; ``on_interrupt`` is called at the first Ctrl-C of a call."""
        super().__init__(AsyncGatewayClient(url, limits=limits, settings=settings), on_interrupt)

    def workflow(self, name: str) -> Workflow:
        """See ``AsyncGatewayClient.workflow``."""
        return self.call(self.asynchronous.workflow(name))
