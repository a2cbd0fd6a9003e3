"""What a deployment of engines is told: all of it JSON, as it stands in a Serve config."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...errors import RylaError
from ...version import version

APPLICATION = "ryla"
BUS = "bus"
"""The Serve application, and its deployment beside that of the engines."""
KINDS = ("comfyui", "embedded", "command")


@dataclass(frozen=True)
class EngineOptions:
    """One engine kind on a cluster.

    Attributes:
        kind: ``comfyui``, ``embedded``, or ``command`` for any program that speaks ComfyUI's API.
        version: of the pack that deploys; a node with another one refuses to start a replica. "" takes any.
        comfyui: the ComfyUI's folder on every node.
        python: the Python that runs it; "" for its own environment's.
        arguments: further ones for it, such as ``--cpu``.
        command: of kind ``command``; ``{port}`` stands for the port, ``{folder}`` for a folder of the replica's own.
        gpus, cpus: what a replica takes of its node.
        min_replicas, max_replicas: how many there may be; between them the length of the queue decides.
        ongoing: how many jobs a replica is given at once, so that its engine never waits for the next.
        warm_up: workflows that an engine runs once before its replica takes jobs.
        idle_seconds: how long a replica that is not needed stays.
        ready_within: seconds that an engine's start may take.
        drain_seconds: how long a replica that is to go may work on its jobs.
    """

    kind: str = "embedded"
    version: str = ""
    comfyui: str = ""
    python: str = ""
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    gpus: float = 0.0
    cpus: float = 1.0
    min_replicas: int = 1
    max_replicas: int = 1
    ongoing: int = 2
    warm_up: tuple[str, ...] = ()
    idle_seconds: float = 300.0
    ready_within: float = 300.0
    drain_seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RylaError(
                "invalid_parameter", f"There is no engine kind {self.kind!r}; there are {', '.join(KINDS)}."
            )
        if self.kind == "comfyui" and not self.comfyui:
            raise RylaError("invalid_parameter", "A deployment of ComfyUIs needs their folder.", hint="Give --comfyui.")
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            message = f"{self.min_replicas} to {self.max_replicas} replicas: that is no range."
            raise RylaError("invalid_parameter", message, hint="Write --replicas 2, or 0:8.")

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> EngineOptions:
        """Read what ``record`` wrote.

        Raises:
            RylaError: ``invalid_parameter``.
        """
        unknown = [name for name in record if name not in {each.name for each in fields(cls)}]
        if unknown:
            raise RylaError("invalid_parameter", f"A deployment of engines has no setting {unknown[0]!r}.")
        lists = {name: tuple(record[name]) for name in ("arguments", "command", "warm_up") if name in record}
        return cls(**{**record, **lists})

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def digest(self) -> str:
        """The same for the same options, however often they are deployed."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()[:12]

    def deployment(self) -> dict[str, Any]:
        """The settings of the Serve deployment, by the names that a Serve config has for them."""
        scaling = {
            "min_replicas": self.min_replicas,
            "max_replicas": self.max_replicas,
            "target_ongoing_requests": 1,
            # Jobs take seconds: what waits now decides, and a start is dear enough not to be undone soon.
            "metrics_interval_s": 1.0,
            "look_back_period_s": 3.0,
            "upscale_delay_s": 2.0,
            "downscale_delay_s": self.idle_seconds,
        }
        return {
            "autoscaling_config": scaling,
            "max_ongoing_requests": self.ongoing,
            "max_queued_requests": -1,
            "health_check_period_s": 2.0,
            "health_check_timeout_s": 20.0,
            "graceful_shutdown_wait_loop_s": 1.0,
            "graceful_shutdown_timeout_s": self.drain_seconds,
            "ray_actor_options": {
                "num_cpus": self.cpus,
                "num_gpus": self.gpus,
                # As in the gateway: one thread less on the way of a job.
                "runtime_env": {"env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}},
            },
        }


@functools.cache
def pack_version() -> str:
    """Of this pack; asked for with every job."""
    return version()


def replicas_of(text: str) -> tuple[int, int]:
    """``2`` as (2, 2), ``0:8`` as (0, 8).

    Raises:
        RylaError: ``invalid_parameter``.
    """
    low, _, high = text.partition(":")
    try:
        return int(low), int(high or low)
    except ValueError:
        raise RylaError("invalid_parameter", f"{text!r} is no number of replicas.", hint="Write 2, or 0:8.") from None
