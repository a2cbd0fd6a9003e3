"""The Postgres that several gateways share, for what the job store itself does not keep."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import sqlalchemy

from ..errors import RylaError

log = logging.getLogger(__name__)

_CONNECTIONS = 4
_LOCK = 7_159_201  # Any number: two gateways do not make the tables at once.
_PAUSES = (0.2, 0.5, 1.0, 2.0)
_TABLES = (
    "CREATE SCHEMA IF NOT EXISTS ryla",
    "CREATE TABLE IF NOT EXISTS ryla.gateways (id text PRIMARY KEY, beat bigint NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ryla.files (job text, name text, content bytea NOT NULL,"
    " written timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (job, name))",
)


class Database:
    """Runs SQL. Its calls block: make them in a thread.

    Args:
        url: of a Postgres database that is there.
        patience: seconds that a call waits for a server that does not answer.
    """

    def __init__(self, url: str, patience: float = 120.0) -> None:
        address = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
        options = {"connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
        self._engine = sqlalchemy.create_engine(
            address, pool_size=_CONNECTIONS, max_overflow=4, pool_pre_ping=True, connect_args=options
        )
        self._patience = patience
        self._making = threading.Lock()
        self._made = False

    def close(self) -> None:
        self._engine.dispose()

    def change(self, statement: str, *, patience: float | None = None, **values: Any) -> int:
        """How many rows a statement changed; one that is sent again after a broken connection must do no harm.

        Raises:
            RylaError: ``job_store_unreachable``, ``disk_full``.
        """
        return int(self._run(statement, values, patience).rowcount)

    def rows(self, statement: str, *, patience: float | None = None, **values: Any) -> list[Any]:
        """The rows of a query.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        return list(self._run(statement, values, patience, rows=True))

    def _run(self, statement: str, values: dict[str, Any], patience: float | None, *, rows: bool = False) -> Any:
        end = time.monotonic() + (self._patience if patience is None else patience)
        tries = 0
        while True:
            try:
                self._make()
                with self._engine.begin() as connection:
                    result = connection.execute(sqlalchemy.text(statement), values)
                    return result.fetchall() if rows else result
            except sqlalchemy.exc.SQLAlchemyError as error:
                if not _passing(error) or time.monotonic() > end:
                    raise failed(error) from error
                time.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1

    def _make(self) -> None:
        """Make the tables, once."""
        if self._made:
            return
        with self._making, self._engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            for table in _TABLES:
                connection.execute(sqlalchemy.text(table))
            self._made = True


def is_postgres(url: str) -> bool:
    """Whether a job store at this URL can be shared."""
    return url.startswith("postgres")


def _passing(error: Exception) -> bool:
    """Whether the server, and not the statement, is at fault."""
    return isinstance(
        error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError | sqlalchemy.exc.TimeoutError
    )


def failed(error: Exception) -> RylaError:
    """What a store's failure is called."""
    why = str(getattr(error, "orig", error)).splitlines()[0][:200]
    if "disk is full" in why or "No space left" in why:
        return RylaError("disk_full", "The job could not be stored: the disk is full.")
    return RylaError("job_store_unreachable", f"The job store does not answer: {why}.")
