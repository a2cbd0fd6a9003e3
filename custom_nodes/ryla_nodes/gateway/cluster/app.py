"""The Serve application: what ``serve deploy`` and ``ryla serve --ray`` run on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve

from .options import EngineOptions
from .replica import Replica


def build(args: Mapping[str, Any]) -> Any:
    """The application of a deployment of engines, from the ``args`` of a Serve config.

    Raises:
        RylaError: ``invalid_parameter``.
    """
    options = EngineOptions.parse(args)
    deployment = serve.deployment(name=options.kind, **options.deployment())(Replica)
    return deployment.bind(options.record())
