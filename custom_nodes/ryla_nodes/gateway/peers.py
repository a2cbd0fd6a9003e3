"""Gateways that share a Postgres: each shows that it lives, and takes over the jobs of one that no longer does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ..errors import RylaError
from .database import Database

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
DEAD_SECONDS = 12.0
"""A gateway that did not show itself for so long, while we could always look, is dead."""

_BEAT = "UPDATE ryla.gateways SET beat = beat + 1 WHERE id = :id"
_ENTER = "INSERT INTO ryla.gateways (id, beat) VALUES (:id, 0) ON CONFLICT (id) DO UPDATE SET beat = gateways.beat + 1"
_LEAVE = "DELETE FROM ryla.gateways WHERE id = :id"
_END = "DELETE FROM ryla.gateways WHERE id = :id AND beat = :beat"
# Whoever has jobs and is no gateway of the table was ended, or left, before its jobs were taken over.
_OTHERS = """
SELECT id, beat FROM ryla.gateways WHERE id <> :id
UNION
SELECT DISTINCT executor_id, -1 FROM dbos.workflow_status
WHERE status = 'PENDING' AND executor_id <> :id AND executor_id NOT IN (SELECT id FROM ryla.gateways)
"""


class Peers:
    """The gateways of one Postgres, as one of them sees them.

    Args:
        identity: of this one.
        take_over: has the jobs of dead gateways, by their ids, run by the living ones.
        moved: called when this one was taken for dead: which of its jobs are still its own has to be asked.
        look: called with each beat.
    """

    def __init__(
        self,
        database: Database,
        identity: str,
        take_over: Callable[[list[str]], None],
        moved: Callable[[], Awaitable[None]],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._database, self._identity = database, identity
        self._take_over, self._moved, self._look = take_over, moved, look
        self._seen: dict[str, tuple[int, float]] = {}
        self._looked = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Show that this one lives, from now on.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        await asyncio.to_thread(self._database.change, _ENTER, id=self._identity)
        self._task = asyncio.ensure_future(self._work())

    async def stop(self) -> None:
        """Leave. The others take over what goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await asyncio.to_thread(self._database.change, _LEAVE, id=self._identity, patience=0.0)
        except RylaError as error:
            log.warning("%s", error.message)

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                if not await asyncio.to_thread(self._database.change, _BEAT, id=self._identity, patience=0.0):
                    log.warning("This gateway was silent for so long that another one took its jobs over.")
                    await self._moved()
                    await asyncio.to_thread(self._database.change, _ENTER, id=self._identity, patience=0.0)
                await asyncio.to_thread(self._watch)
                await self._look()
            except RylaError as error:
                # Who could not be looked at did not have to show itself.
                self._seen.clear()
                log.warning("%s", error.message)

    def _watch(self) -> None:
        """Look at the others, and end those that are dead."""
        now = time.monotonic()
        others = {str(row[0]): int(row[1]) for row in self._database.rows(_OTHERS, id=self._identity, patience=0.0)}
        # After a gap in what was seen, whether here or in Postgres, the others have their time anew.
        steady = time.monotonic() - self._looked < 3 * BEAT_SECONDS
        before, self._seen, self._looked = self._seen if steady else {}, {}, time.monotonic()
        for identity, beat in others.items():
            known = before.get(identity)
            self._seen[identity] = known if known is not None and known[0] == beat else (beat, now)
        for identity, (beat, since) in list(self._seen.items()):
            if now - since > DEAD_SECONDS:
                self._bury(identity, beat)

    def _bury(self, identity: str, beat: int) -> None:
        if beat >= 0 and not self._database.change(_END, id=identity, beat=beat, patience=0.0):
            return  # It showed itself just now, or another one was faster.
        log.warning("A gateway is dead; its jobs go on here.", extra={"gateway": identity})
        self._take_over([identity])
        del self._seen[identity]
