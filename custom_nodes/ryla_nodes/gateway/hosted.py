"""A gateway in a process of somebody else, such as a cloud's container: started and stopped by that host's hooks."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from fastapi import FastAPI

from ..errors import RylaError
from .app import Gateway

_LOOK_SECONDS = 0.1
_DEATHS = 3
"""An engine that ended so often without an answer will not come: the host's machine need not be paid for longer."""
_PASSING = ("engine", "worker", "websocket", "warm_up")
"""What a start waits for. What else is lacking, such as a model, does not mend itself: it is served, and told."""


class Hosted:
    """One gateway that lives in the event loop of its host.

    Args:
        within: seconds that its engines have until they are up and warm.
    """

    def __init__(self, gateway: Gateway, within: float) -> None:
        self._gateway, self._within = gateway, within
        self._stack = AsyncExitStack()

    @property
    def app(self) -> FastAPI:
        """What the host serves, between ``start`` and ``stop``."""
        return self._gateway.app

    async def start(self) -> None:
        """Start the gateway and its engines, and wait until they are up and warm.

        Raises:
            RylaError: ``engine_unreachable`` with the end of the engine's log, and what ``Gateway.running`` raises.
        """
        await self._stack.enter_async_context(self._gateway.running())
        try:
            await self._until_up()
        except BaseException:
            await self._stack.aclose()
            raise

    async def stop(self, seconds: float) -> None:
        """Take no more jobs, give those that engines have ``seconds`` to end, and stop."""
        await self._gateway.drain(seconds)
        await self._stack.aclose()

    async def _until_up(self) -> None:
        began, children = time.monotonic(), self._gateway.children.children
        while waiting := [lack for lack in self._gateway.readiness.lacks() if lack.what in _PASSING]:
            waited = time.monotonic() - began
            if waited > self._within or any(child.deaths >= _DEATHS for child in children):
                troubles = [error.message for child in children if (error := child.trouble)]
                why = "\n".join(troubles or [lack.message for lack in waiting])
                message = f"The engine is not up after {waited:.0f} s. {why}"
                raise RylaError("engine_unreachable", message, hint="ryla doctor")
            await asyncio.sleep(_LOOK_SECONDS)
