"""The Serve application: what ``serve deploy`` and ``ryla serve --ray`` run on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve

from .bus import Bus
from .options import BUS, EngineOptions
from .replica import Replica

_ASKED = 10_000


def build(args: Mapping[str, Any]) -> Any:
    """The application of a deployment of engines, from the ``args`` of a Serve config.

    Raises:
        RylaError: ``invalid_parameter``.
    """
    options = EngineOptions.parse(args)
    return application(options, options.kind)


def application(options: EngineOptions, name: str) -> Any:
    """The application with a deployment of this name."""
    quiet = {"enable_access_log": False}  # A line for each job costs a millisecond.
    bus = serve.deployment(
        name=BUS, max_ongoing_requests=_ASKED, ray_actor_options={"num_cpus": 0}, logging_config=quiet
    )(Bus)
    return serve.deployment(name=name, logging_config=quiet, **options.deployment())(Replica).bind(
        options.record(), bus.bind()
    )
