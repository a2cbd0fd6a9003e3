"""The embedded engine in this process: graphs run in several threads, and every model is loaded once."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ryla_nodes.engines.embedded.core_nodes import core_classes
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.embedded.execution.calls import Reporter
from ryla_nodes.engines.embedded.execution.executor import Executor
from ryla_nodes.engines.embedded.execution.jobs import Job, Outcome
from ryla_nodes.engines.embedded.execution.registry import Registry
from ryla_nodes.engines.embedded.execution.validation import validate
from ryla_nodes.engines.embedded.inference.sdxl_model import SdxlModel
from ryla_nodes.engines.protocol import running_in
from ryla_nodes.engines.schema import io
from ryla_nodes.models.flux_files import FluxFiles
from ryla_nodes.models.folders import ModelFolders, at_root
from ryla_nodes.models.identity_files import IdentityFiles
from ryla_nodes.nodes import node_classes
from ryla_nodes.workflows.graph import Graph
from torch import Tensor

from .together import GatheredModel, Together

T, R = TypeVar("T"), TypeVar("R")


TOUCHED = "Touched"


class Touched(io.ComfyNode):
    """White wherever a picture is not black, however little: eight bits would round the faintest away."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id=TOUCHED, inputs=[io.Image.Input("image")], outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, image: Tensor) -> io.NodeOutput:
        return io.NodeOutput((image > 0).float())


class JobFailed(Exception):
    """A job ended without its pictures; the message is the engine's."""


@dataclass(frozen=True)
class _Shelf:
    """What was loaded, by what it was loaded from."""

    held: dict[Hashable, Any] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def once(self, key: Hashable, load: Callable[[], T]) -> T:
        with self.lock:
            if key not in self.held:
                self.held[key] = load()
            found: T = self.held[key]
            return found


@dataclass(frozen=True)
class SharedEngine(EmbeddedEngine):
    """The engine whose own identity models are ``identity``; ``together`` gathers SDXL's calls of several threads."""

    identity: IdentityFiles | None = None
    together: Together | None = None
    shelf: _Shelf = field(default_factory=_Shelf, compare=False, repr=False)

    def folders(self) -> ModelFolders:
        """None that others fill: the engine's own models are what is judged."""
        return at_root(self.home / "models")

    def default_identity(self) -> IdentityFiles:
        return self.identity or super().default_identity()

    def load_flux(self, files: FluxFiles, weight_dtype: str) -> tuple[Any, Any, Any]:
        load = super().load_flux
        return self.shelf.once((files, weight_dtype), lambda: load(files, weight_dtype))

    def load_checkpoint(self, path: Path) -> tuple[Any, Any, Any]:
        load = super().load_checkpoint
        model, clip, vae = self.shelf.once(path, lambda: load(path))
        if self.together is not None and isinstance(model, SdxlModel):
            model = GatheredModel.of(model, self.together)
        return model, clip, vae

    def load_control_net(self, path: Path) -> Any:
        load = super().load_control_net
        return self.shelf.once(path, lambda: load(path))

    def with_adapter(self, adapter: Path) -> SharedEngine:
        """The same engine with another adapter of InstantID."""
        return replace(self, identity=replace(self.default_identity(), adapter=adapter))


class Painter:
    """Runs graphs in ``engine``, one after the other; for one thread."""

    def __init__(self, engine: SharedEngine) -> None:
        self.engine = engine
        self.running: Job | None = None
        with running_in(engine):
            self._registry = Registry([*core_classes(), *node_classes(), Touched])
        self._reporter = Reporter(None)
        self._executor = Executor(self._registry, lambda *_: None, engine.unload_models, self._reporter)

    def paint(self, graph: Graph, saves: Sequence[str]) -> list[Path]:
        """The files that the nodes ``saves`` write.

        Raises:
            JobFailed: with the engine's own words.
        """
        with running_in(self.engine):
            verdict = validate(graph, self._registry, self._reporter, saves)
            if verdict.error is not None:
                raise JobFailed(f"{verdict.error} {verdict.node_errors}")
            self.running = Job(0, str(uuid.uuid4()), graph, {}, tuple(verdict.outputs))
            outcome = self._executor.run(self.running)
        if not outcome.success:
            raise JobFailed(_why(outcome))
        return [self._file(outcome.outputs[node]["images"][0]) for node in saves]

    def _file(self, told: Mapping[str, str]) -> Path:
        return self.engine.files.inside(told["type"], told["subfolder"], told["filename"])


def _why(outcome: Outcome) -> str:
    said = outcome.messages[-1][1]
    return f"{said.get('node_type', '')}: {said.get('exception_message', outcome.messages[-1][0])}".strip()


class Studio:
    """``threads`` painters that share an engine's models."""

    def __init__(self, engine: SharedEngine, threads: int) -> None:
        self._threads = threads
        self._engine = engine
        self._own = threading.local()
        self._painters: list[Painter] = []

    def results(self, asked: Sequence[T], work: Callable[[Painter, T], R]) -> Iterator[tuple[T, R]]:
        """``work`` of each of ``asked`` as it ends, in any order. Interrupted, it cancels the jobs that run."""
        pool = ThreadPoolExecutor(self._threads, "painter")
        futures = {pool.submit(self._work, work, each): each for each in asked}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for painter in self._painters:
                if painter.running is not None:
                    painter.running.cancelled.set()
            pool.shutdown(cancel_futures=True)

    def _work(self, work: Callable[[Painter, T], R], asked: T) -> R:
        if not hasattr(self._own, "painter"):
            self._own.painter = Painter(self._engine)
            self._painters.append(self._own.painter)
        return work(self._own.painter, asked)
