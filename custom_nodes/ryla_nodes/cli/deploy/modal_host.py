"""What runs in a container on Modal: the gateway, and the one engine that it supervises."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from ... import settings as environment
from ...errors import RylaError
from ...gateway import logs, traces
from ...gateway.app import Gateway
from ...gateway.children import ChildSpec
from ...gateway.hosted import Hosted
from ...gateway.options import Limits, Options
from ...gateway.security import tokens_of
from ...loras import refresh_socket
from ...settings import Settings
from ..own_engines import comfyuis, embedded_engine
from .modal_plan import ModalPlan

_TRIES = 5
_PAUSE_SECONDS = 0.4
_DRAIN_SECONDS = 20.0  # Modal kills a container 30 s after it was told to end.


class Container:
    """One container's gateway.

    Args:
        comfyui: the folder of the ComfyUI.
        state: a folder of the container's own.
        reload: brings the volume of the LoRAs up to date; RuntimeError while a file on it is open.
    """

    def __init__(self, plan: ModalPlan, comfyui: Path, state: Path, reload: Callable[[], Awaitable[None]]) -> None:
        self._plan, self._comfyui, self._state, self._reload = plan, comfyui, state, reload
        self._stack = AsyncExitStack()
        self._hosted: Hosted | None = None

    @property
    def app(self) -> Callable[..., Awaitable[None]]:
        """The gateway's ASGI app; call it between ``start`` and ``stop``."""
        assert self._hosted is not None
        return self._hosted.app

    async def start(self) -> None:
        """Start the engine, warm it up, and be ready to serve.

        Raises:
            RylaError: ``token_required``, ``engine_unreachable`` with the end of the engine's log, and what reading the
                settings and opening the job store raise.
        """
        socket = self._state / "refresh.sock"
        # The engine is a child: it takes the variables over.
        os.environ["RYLA_VOLUME_REFRESH"] = refresh_socket.command(socket)
        options = self._options(environment.load())
        logs.configure(as_json=True, level="info")
        traces.configure()
        await self._stack.enter_async_context(refresh_socket.listening(socket, self.refresh))
        await self.refresh()
        hosted = Hosted(Gateway(options, self._children(options.settings)), self._plan.start_within)
        await hosted.start()
        self._hosted = hosted

    async def stop(self) -> None:
        """End it within the time that Modal gives."""
        if self._hosted is not None:
            await self._hosted.stop(_DRAIN_SECONDS)
        await self._stack.aclose()

    async def refresh(self) -> None:
        """Bring the volume of the LoRAs up to date. It cannot be done while one of them is being read: then again."""
        for attempt in range(_TRIES):
            try:
                await self._reload()
                return
            except RuntimeError as error:
                if "open files" not in str(error) or attempt == _TRIES - 1:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)

    def _options(self, settings: Settings) -> Options:
        tokens, plan = tokens_of(settings), self._plan
        if not tokens:
            message = f"The secret {plan.secret} has no RYLA_TOKEN, and the address of a Modal app is public."
            raise RylaError("token_required", message, hint=f"modal secret create {plan.secret} RYLA_TOKEN=...")
        return Options(
            settings=settings,
            state=self._state / "gateway",
            workflows=plan.workflows,
            tokens=tokens,
            loopback=False,
            warm_up=plan.warm_up,
            hold=True,
            limits=Limits(queued=plan.requests, timeout=float(plan.timeout)),
        )

    def _children(self, settings: Settings) -> list[ChildSpec]:
        if self._plan.engine == "embedded":
            return [embedded_engine(settings)]
        return comfyuis(self._comfyui, None, self._plan.comfyui_args, "", self._state)
