"""What runs the jobs of a gateway: engines at addresses, or a cluster of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..client import AsyncClient, Job, Submission
from ..client.async_client import Runnable
from ..client.job import OnSubmit
from ..client.polling import OnProgress
from ..client.websocket import OnPreview
from ..workflows.workflow import BoundPrompt
from .children import Children
from .options import Options
from .readiness import MakeLookout


class Client(Protocol):
    """What the gateway asks of a client; see ``AsyncClient``."""

    @property
    def servers(self) -> tuple[str, ...]: ...

    async def aclose(self) -> None: ...

    def bind(self, workflow: Runnable, parameters: Mapping[str, object] | None = None) -> BoundPrompt: ...

    def start(
        self,
        workflow: Runnable,
        *,
        timeout: float,
        on_progress: OnProgress | None,
        on_submit: OnSubmit | None,
        prompt_id: str,
        depth: int | None,
        wait: float,
        on_preview: OnPreview | None,
    ) -> Job: ...

    def attach(
        self,
        prompt: BoundPrompt,
        submission: Submission,
        *,
        timeout: float,
        on_progress: OnProgress | None,
        on_preview: OnPreview | None,
        on_submit: OnSubmit | None,
    ) -> Job: ...


@dataclass(frozen=True)
class Backend:
    """Who runs the jobs.

    Attributes:
        places: how many jobs are given to it at once; the others wait in the gateway.
        lookout: what looks at a cluster; None for engines, each of which is probed.
    """

    client: Client
    places: int
    lookout: MakeLookout | None = None


def servers(options: Options, children: Children) -> Backend:
    """The engines that the gateway started, and those at the addresses that it was given."""
    client = AsyncClient(*children.urls, *options.servers, settings=options.settings)
    return Backend(client, max(1, len(client.servers)) * options.limits.engine_depth)
