"""``ryla serve --ray``: which engines are deployed on the cluster."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from ..errors import RylaError

if TYPE_CHECKING:
    from ..gateway.app import Gateway
    from ..gateway.cluster.options import EngineOptions
    from ..gateway.options import Options

OPTION = "--ray"
_LOCAL = "local"
_HINT = "ryla serve --help"


class ServeCommand(TyperCommand):
    """Lets the value of ``--ray`` be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for number in [number for number, word in enumerate(args) if word == OPTION][::-1]:
            if args[number + 1 : number + 2] == [] or args[number + 1].startswith("-"):
                args = [*args[: number + 1], _LOCAL, *args[number + 1 :]]
        return list(super().parse_args(ctx, args))


@dataclass(frozen=True)
class RayChoice:
    """What ``--ray`` and the options that go with it say.

    Attributes:
        address: of the cluster; None without ``--ray``.
        replicas: ``2`` or ``0:8``; None when it is not said.
        gpus: for each of them; None when it is not said.
    """

    address: str | None
    replicas: str | None
    gpus: float | None

    def require_alone(self, servers: Sequence[str], gpus: str) -> None:
        """Refuse what does not go together, and a machine without Ray.

        Raises:
            RylaError: ``conflicting_options``, ``ray_not_installed``.
        """
        if self.address is None:
            if self.replicas is not None or self.gpus is not None:
                message = "--replicas and --gpus-per-replica are for engines on a Ray cluster: --ray."
                raise RylaError("conflicting_options", message, hint=_HINT)
            return
        if servers or gpus:
            raise RylaError("conflicting_options", "--ray goes without --server and --gpus.", hint=_HINT)
        if importlib.util.find_spec("ray") is None:
            raise RylaError("ray_not_installed", "ryla serve --ray needs Ray, which is not installed here.")

    def gateway(self, options: Options, comfyui: Path | None, python: Path | None, arguments: str) -> Gateway:
        """A gateway before the cluster.

        Raises:
            RylaError: ``cluster_unreachable``, ``invalid_parameter``, and what ``Gateway`` raises.
        """
        from ..gateway.app import Gateway
        from ..gateway.cluster.backend import cluster

        assert self.address is not None
        engines = self._engines(options, comfyui, python, arguments)
        return Gateway(options, backend=cluster(options, self.address, engines))

    def _engines(
        self, options: Options, comfyui: Path | None, python: Path | None, arguments: str
    ) -> EngineOptions | None:
        """What to deploy on the cluster; None to take what is deployed there."""
        if comfyui is None and self.replicas is None and self.gpus is None:
            return None
        from ..gateway.cluster.options import EngineOptions, replicas_of
        from ..version import version

        low, high = replicas_of(self.replicas or "1")
        return EngineOptions(
            kind="comfyui" if comfyui else "embedded",
            version=version(),
            comfyui=str(comfyui.expanduser().absolute()) if comfyui else "",
            python=str(python or ""),
            arguments=tuple(shlex.split(arguments)),
            warm_up=options.warm_up,
            gpus=float(comfyui is not None) if self.gpus is None else self.gpus,
            min_replicas=low,
            max_replicas=high,
        )
