"""A Serve replica: one engine on one node, and the jobs that it is given."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from ... import settings as environment
from ...client import AsyncClient, Result, State, Timings
from ...errors import RylaError
from ...workflows import warm_up
from ...workflows.manifest import load
from ..probe import Lack, Probe, Sight
from .bus import Question
from .messages import Order, Refused, ReplicaSight, Report
from .options import EngineOptions, pack_version
from .process import Place, process_of, require_gpu
from .work import Work, Works

log = logging.getLogger(__name__)

_NEAR = 1
"""Of how many LoRAs Serve is told that an engine has them: of more, soon all would have all, and nothing be gained."""
_PAUSE = 0.5
_SILENT_SECONDS = 60.0
"""An engine that loads a large model may be deaf for so long."""


def require_version(wanted: str, who: str, node: str) -> None:
    """Refuse to work with another version of the pack.

    Raises:
        RylaError: ``pack_versions_differ``.
    """
    if wanted and wanted != pack_version():
        message = f"The node {node} has version {pack_version()} of ryla-nodes, and {who} has {wanted}."
        raise RylaError("pack_versions_differ", message)


class Replica:
    """What Serve starts, feeds, asks for its health and replaces.

    Args:
        record: of ``EngineOptions``.
        bus: the handle of the ``Bus``.

    Raises:
        RylaError: ``pack_versions_differ``, ``comfyui_start_failed`` with the end of its log, ``gpu_missing``, and
            what its first run raises.
    """

    async def __init__(self, record: Mapping[str, Any], bus: Any) -> None:  # type: ignore[misc]  # Serve awaits it.
        self._options = EngineOptions.parse(record)
        self._node = str(ray.util.get_node_ip_address())
        self.name = f"ray://{self._node}/{serve.get_replica_context().replica_id.unique_id}"
        require_version(self._options.version, "its deployment", self._node)
        self._place = Place.new()
        self._works, self._tasks = Works(), set[asyncio.Task[None]]()
        self._photos: Counter[str] = Counter()
        self._silent_since: float | None = None
        self._engine = process_of(self._options, self._place)
        try:
            await asyncio.to_thread(self._engine.start)
            self._settings = environment.load()
            self._client = AsyncClient(self._engine.url, settings=self._settings)
            self._probe = Probe(self._engine.url, {}, ())
            await self._probe.look()
            require_gpu(self._options, self._probe.sight.gpu, self._node)
            await self._warm_up()
            self._keep(self._listen(bus))
        except BaseException:
            self.__del__()
            raise

    async def _warm_up(self) -> None:
        for name in self._options.warm_up:
            workflow = load(name, self._settings)
            await self._client.run(workflow, warm_up.parameters(workflow), timeout=warm_up.SECONDS)

    def __del__(self) -> None:
        """Serve calls it when the replica is to go, and Python once more."""
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.stop()
        if place := getattr(self, "_place", None):
            place.remove()

    # --- jobs ------------------------------------------------------------------------------------------------------

    async def run(self, order: Order) -> AsyncIterator[Report]:
        """Run a job, and tell how far it is; the last report is its result. It goes on when nobody listens."""
        try:
            require_version(order.version, "a gateway", self._node)
            if self._works.get(order.prompt_id) is None:
                self._require_engine()
        except RylaError as error:
            yield Refused(error, lasting=error.code == "pack_versions_differ")
            return
        if model_id := serve.get_multiplexed_model_id():
            await self.near(model_id)
        work = self._works.get(order.prompt_id) or self._begin(order)
        async for report in work.reports():
            yield report

    @serve.multiplexed(max_num_models_per_replica=_NEAR)  # type: ignore[untyped-decorator]
    async def near(self, model_id: str) -> str:
        """Serve sends jobs of a kind to replicas that were asked for it before; the engine itself loads its models."""
        return model_id

    def _require_engine(self) -> None:
        if crash := self._engine.crash():
            raise crash

    def _begin(self, order: Order) -> Work:
        work = self._works.add(order.prompt_id)
        self._keep(self._work(order, work))
        return work

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, order: Order, work: Work) -> None:
        digests = [upload.sha256 for upload in order.prompt.uploads]
        self._photos.update(digests)
        result = failed(order, RylaError("internal_error", f"{self.name} failed to run this job."))
        try:
            prompt = await asyncio.to_thread(order.unpacked, self._place.uploads)
            job = self._client.start(prompt, timeout=order.timeout, on_progress=work.show, prompt_id=order.prompt_id)
            work.begin(job)
            result = await job.result()
        except RylaError as error:
            result = failed(order, error)
        finally:
            self._photos.subtract(digests)
            self._place.forget(order.prompt_id, [digest for digest in digests if self._photos[digest] <= 0])
            work.end(replace(result, server=self.name))

    # --- questions -------------------------------------------------------------------------------------------------

    async def _listen(self, bus: Any) -> None:
        while True:
            try:
                for question in await bus.fetch.remote(self.name):
                    self._keep(self._answer(bus, question))
            except (RayError, RayServeException) as error:
                log.warning("The bus does not answer: %s", error)
                await asyncio.sleep(_PAUSE)

    async def _answer(self, bus: Any, question: Question) -> None:
        call = {"stop": self.stop, "result_of": self.result_of, "sight": self.sight}[question.method]
        answer = await call(*question.arguments)  # type: ignore[operator]
        try:
            await bus.answer.remote(question.number, self.name, answer)
        except (RayError, RayServeException) as error:
            log.warning("The bus took no answer: %s", error)

    async def stop(self, prompt_id: str) -> Result | None:
        """Cancel a job and tell how it ended; None when it is not here."""
        work = self._works.get(prompt_id)
        if work is None:
            return None
        work.stop()
        return await work.over()

    async def result_of(self, prompt_id: str) -> Result | None:
        """How a job ended, once it has; None when it is not here."""
        work = self._works.get(prompt_id)
        return None if work is None else await work.over()

    async def sight(self, classes: Sequence[str], folders: Sequence[str]) -> ReplicaSight:
        """What a gateway has to know of this engine: its state, these node classes, and the models in these folders."""
        probe = self._probe
        probe.watch(classes, folders)
        await probe.look()
        sight = probe.sight
        if crash := self._engine.crash():
            sight = Sight(lacks=(Lack("engine", crash.message, crash.hint),), gpu=sight.gpu)
        return ReplicaSight(self.name, pack_version(), sight)

    # --- its health ------------------------------------------------------------------------------------------------

    async def check_health(self) -> None:
        """Called by Serve, which replaces the replica after three failures.

        Raises:
            RylaError: ``comfyui_crashed``, ``zombie_worker``, ``engine_unreachable``.
        """
        self._require_engine()
        await self._probe.look()
        sight, now = self._probe.sight, time.monotonic()
        self._silent_since = None if sight.up else self._silent_since or now
        for lack in sight.lacks:
            if lack.what == "worker":
                raise RylaError("zombie_worker", f"{self.name}: {lack.message}")
        if self._silent_since is not None and now - self._silent_since > _SILENT_SECONDS:
            raise RylaError("engine_unreachable", f"{self.name}: its engine is silent since {_SILENT_SECONDS:.0f} s.")


def failed(order: Order, error: RylaError) -> Result:
    """The end of a job that did not get to its engine."""
    nothing = Timings(0.0, None, 0.0)
    return Result.without_picture(
        order.prompt, error, state=State.FAILED, server="", prompt_id=order.prompt_id, timings=nothing
    )
