"""The truth about whether jobs can be served: looked at every second, never assumed."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..client import AsyncClient
from ..errors import RylaError
from ..models import catalogue, listed
from ..models.catalogue import Catalogue
from ..workflows import warm_up
from ..workflows.graph import Graph
from ..workflows.workflow import Workflow
from .metrics import Metrics
from .options import Options
from .probe import Lack, Lookout, Probe
from .problems import redact

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0

MakeLookout = Callable[[Mapping[str, Graph], Iterable[str]], Lookout]


class Readiness:
    """Watches the engines and the disk.

    Args:
        trouble: why a supervised engine does not work; None for one that does.
        lookout: makes what looks at a cluster, in the place of a probe for each of the ``servers``.
        free_bytes: what is free on the disk of the state folder.
    """

    def __init__(
        self,
        options: Options,
        servers: tuple[str, ...],
        workflows: Mapping[str, Workflow],
        metrics: Metrics,
        *,
        trouble: Callable[[str], RylaError | None] = lambda _: None,
        lookout: MakeLookout | None = None,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
    ) -> None:
        self._options, self._workflows, self._metrics = options, workflows, metrics
        self._trouble, self._free_bytes = trouble, free_bytes
        self._catalogue: Catalogue = catalogue.load(options.settings.catalogue)
        entries = [self._catalogue.get(each) for workflow in workflows.values() for each in workflow.models]
        graphs = {name: workflow.graph for name, workflow in workflows.items()}
        folders = listed.folders(entries, self._catalogue)
        self.probes: list[Lookout]
        if lookout is not None:
            self.probes, self._cold = [lookout(graphs, folders)], set()  # Each replica warms itself up.
        else:
            self.probes = [Probe(server, graphs, folders) for server in servers]
            self._cold = {(probe.server, name) for probe in self.probes for name in options.warm_up}
        self._warming: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._looked = False
        self.draining = False

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.ensure_future(self._watch())
        for probe in self.probes:
            names = [name for server, name in sorted(self._cold) if server == probe.server]
            if names:
                self._warming.add(asyncio.ensure_future(self._warm_up(probe, names)))

    async def stop(self) -> None:
        """Look no more."""
        tasks = [*self._warming, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(probe.aclose() for probe in self.probes))

    def gpu_of(self, server: str) -> str:
        """The GPU of an engine; "" while it is not known."""
        return next((gpu for probe in self.probes if (gpu := probe.gpu_of(server))), "")

    async def _watch(self) -> None:
        while True:
            await asyncio.gather(*(probe.look() for probe in self.probes))
            self._looked = True
            for number, probe in enumerate(self.probes):
                self._metrics.engines.labels(str(number)).set(probe.sight.up and not probe.sight.lacks)
            self._metrics.ready.set(not self.lacks())
            await asyncio.sleep(EVERY_SECONDS)

    # --- what is lacking -------------------------------------------------------------------------------------------

    def lacks(self) -> list[Lack]:
        """All that keeps the gateway from being ready; empty when it is."""
        if self.draining:
            return [Lack("gateway", "The gateway is being stopped.", "Start it again: ryla serve")]
        if not self._looked:
            return [Lack("engine", "The engines were not asked yet.", "Wait a moment.")]
        found = self._disk()
        sound = [probe for probe in self.probes if probe.sight.up and not probe.sight.lacks]
        if not sound:
            found += [lack for probe in self.probes for lack in (self._supervised(probe) or probe.sight.lacks)]
        for name in self._workflows:
            found += self._workflow(name, sound or [probe for probe in self.probes if probe.sight.up])
        cold = {name for server, name in self._cold if any(probe.server == server for probe in sound)}
        warm = any(all((probe.server, name) not in self._cold for name in self._options.warm_up) for probe in sound)
        if cold and not warm:
            message = f"The engines run {', '.join(sorted(cold))} for the first time, to load what they need."
            found.append(Lack("warm_up", message, "Wait: the first run is the slowest."))
        return found

    def _supervised(self, probe: Lookout) -> tuple[Lack, ...]:
        error = self._trouble(probe.server)
        return (Lack("engine", redact(error.message), "ryla doctor"),) if error else ()

    def _disk(self) -> list[Lack]:
        free, least = self._free_bytes(self._options.state), self._options.limits.free_bytes
        if free >= least:
            return []
        message = f"The disk of the results has {free / 2**20:.0f} MiB free; {least / 2**20:.0f} are needed."
        return [Lack("disk", message, "Free some space, or keep less: ryla serve --keep-gib N")]

    def _workflow(self, name: str, probes: list[Lookout]) -> list[Lack]:
        """What a workflow lacks on the engine that lacks the least."""
        each = [[*probe.lacks_of(name), *self._models(name, probe)] for probe in probes]
        return min(each, key=len, default=[])

    def _models(self, name: str, probe: Lookout) -> list[Lack]:
        if not self._options.require_models or probe.sight.embedded or probe.sight.inventory is None:
            return []
        entries = [self._catalogue.get(model) for model in self._workflows[name].models]
        absent = listed.missing(entries, probe.sight.models, self._catalogue)
        return [
            Lack(
                "model",
                f"No engine lists the model {model}.",
                f"Where the engine runs: ryla models install {model}",
                name,
            )
            for model in absent
        ]

    def require_disk(self) -> None:
        """Refuse work that could not be stored.

        Raises:
            RylaError: ``disk_full``.
        """
        for lack in self._disk():
            raise RylaError("disk_full", lack.message, hint=lack.fix)

    def told(self) -> dict[str, Any]:
        """All of it as JSON."""
        lacks = self.lacks()
        engines = [
            {
                "engine": number,
                "up": probe.sight.up,
                "version": probe.sight.version,
                "gpu": probe.sight.gpu,
                "queued": probe.sight.queued,
                **({} if probe.sight.replicas is None else {"replicas": probe.sight.replicas}),
                "lacks": [asdict(lack) for lack in probe.sight.lacks],
            }
            for number, probe in enumerate(self.probes)
        ]
        return {"ready": not lacks, "missing": [asdict(lack) for lack in lacks], "engines": engines}

    # --- warming up ------------------------------------------------------------------------------------------------

    async def _warm_up(self, probe: Lookout, names: list[str]) -> None:
        """Run workflows once on an engine, each again until it succeeds."""
        async with AsyncClient(probe.server, settings=self._options.settings) as client:
            for name in names:
                while not await self._warmed(client, probe, name):
                    await asyncio.sleep(EVERY_SECONDS)
                self._cold.discard((probe.server, name))

    async def _warmed(self, client: AsyncClient, probe: Lookout, name: str) -> bool:
        if not probe.sight.up:
            return False
        workflow = self._workflows[name]
        try:
            await client.run(workflow, warm_up.parameters(workflow), timeout=warm_up.SECONDS)
        except RylaError as error:
            log.warning("The warm-up of %s failed: %s", name, error.message)
            return False
        return True
