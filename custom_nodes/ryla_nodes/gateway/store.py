"""The durable list of jobs: DBOS Transact over a SQLite file or Postgres.

Each job is one DBOS workflow without steps: its input is the job as it was accepted, its output how it ended. What is
neither is taken up again at the next start. It starts in the process that accepted it and not through a DBOS queue, as
polling a queue costs four times the processor time of all the rest.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy
from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID, WorkflowStatus
from dbos import error as dbos_error

from ..errors import RylaError
from ..files import write_whole
from .database import failed

FORMAT = 1
"""Raised when what the store holds changes so that older versions cannot read it."""

Record = dict[str, Any]
Body = Callable[[str, Record], Awaitable[Record]]

_NAME = "ryla-gateway"
_VERSION = "jobs-1"
_CONNECTIONS = 4
_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_PAGE = 500
_IDENTITY = "gateway.json"


class JobStore:
    """Jobs by id. One process at a time works on a state folder; those of several may share a Postgres.

    Args:
        folder: the state folder; made when absent.
        url: a Postgres database; None for a SQLite file in the folder.
        bodies: what runs a job of each kind: takes id and input, returns the output, and raises nothing.

    Attributes:
        identity: whose jobs this process runs, once the store is open.
    """

    def __init__(self, folder: Path, url: str | None, bodies: dict[str, Body]) -> None:
        self._folder, self._url = folder, url or f"sqlite:///{folder / 'jobs.sqlite'}"
        self._lock = filelock.FileLock(folder / "lock")
        self._bodies = bodies
        self._workflows: dict[str, Callable[[Record], Any]] = {}
        self.identity = ""

    def open(self) -> None:
        """Open the store and take up what an earlier process left; call it in the running event loop.

        Raises:
            RylaError: ``gateway_running``, ``job_store_newer``, ``job_store_unreachable``, ``not_writable``.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RylaError("gateway_running", f"Another gateway works in {self._folder}.") from None
        except OSError as error:
            raise RylaError("not_writable", f"{self._folder} cannot be written: {error.strerror}.") from error
        try:
            self._launch()
        except BaseException:
            self._lock.release()
            raise

    def close(self) -> None:
        """Let go of the store. Jobs that go on are taken up at the next start."""
        with suppress(dbos_error.DBOSException):
            DBOS.destroy(destroy_registry=True)
        self._lock.release()

    def _launch(self) -> None:
        before = self._identity()
        # Whose jobs other gateways may take over is never the same one again.
        self.identity = str(uuid.uuid4()) if self.shared else before
        for name in ("dbos", "DBOS"):
            logging.getLogger(name).setLevel(logging.ERROR)
        config = DBOSConfig(
            name=_NAME,
            system_database_url=self._url,
            executor_id=self.identity,
            application_version=_VERSION,
            serializer=DBOSPortableJSONSerializer(),
            log_level="ERROR",
            # Neither schedules nor notifications are used: no need to look for them often.
            scheduler_polling_interval_sec=3600.0,
            notification_listener_polling_interval_sec=1.0,
            use_listen_notify=False,
            sys_db_pool_size=_CONNECTIONS,
        )
        if self._url.startswith("sqlite"):
            config["system_database_engine"] = _sqlite(self._url)
        try:
            DBOS(config=config)
            for kind, body in self._bodies.items():
                self._workflows[kind] = _registered(kind, body)
            DBOS.launch()
            if self.shared:
                # The folder is ours, so the process that had it before is gone.
                self.take_over([before])
                self._write_identity(self.identity)
        except (dbos_error.DBOSException, sqlalchemy.exc.SQLAlchemyError, OSError, ValueError) as error:
            with suppress(dbos_error.DBOSException):
                DBOS.destroy(destroy_registry=True)
            message = f"The job store cannot be opened: {str(error).splitlines()[0][:300]}"
            raise RylaError("job_store_unreachable", message) from error

    def _identity(self) -> str:
        """Who works on this folder: jobs are taken up again by the same one. Also checks the folder's format."""
        path = self._folder / _IDENTITY
        if not path.exists():
            self._write_identity(str(uuid.uuid4()))
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            written, identity = int(told["format"]), str(told["id"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RylaError("job_store_unreachable", f"{path} is damaged.", hint="Give another --state.") from error
        if written > FORMAT:
            message = f"{self._folder} was written by a newer version: format {written}; this one knows {FORMAT}."
            raise RylaError("job_store_newer", message)
        return identity

    def _write_identity(self, identity: str) -> None:
        write_whole(self._folder / _IDENTITY, json.dumps({"format": FORMAT, "id": identity}).encode())

    @property
    def shared(self) -> bool:
        """Whether other gateways may use it, too."""
        return not self._url.startswith("sqlite")

    # --- whose jobs ------------------------------------------------------------------------------------------------

    def take_over(self, identities: list[str]) -> None:
        """Have the jobs of processes that are gone run by those that live: each by one of them.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        try:
            DBOS._recover_pending_workflows(identities)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise failed(error) from error

    async def own(self) -> frozenset[str]:
        """The ids of the jobs that this process has to run.

        Raises:
            RylaError: ``job_store_unreachable``.
        """
        found = await self._list(status="PENDING", executor_id=self.identity, load_input=False, load_output=False)
        return frozenset(each.workflow_id for each in found)

    # --- jobs ------------------------------------------------------------------------------------------------------

    async def start(self, kind: str, job_id: str, record: Record) -> bool:
        """Store a job and begin it; False, and nothing is done, when the id is taken.

        Raises:
            RylaError: ``disk_full``, ``job_store_unreachable``.
        """
        try:
            with SetWorkflowID(job_id, workflow_id_reuse_policy="reject"):
                await DBOS.start_workflow_async(self._workflows[kind], record)
        except dbos_error.DBOSWorkflowIDInUseError:
            return False
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise failed(error) from error
        return True

    async def get(self, job_id: str) -> tuple[Record, Record | None] | None:
        """Input and output of a job; the output is None while it goes on; None for an unknown id."""
        found = await self._list(workflow_ids=[job_id])
        return _parts(found[0]) if found else None

    async def unfinished(self) -> dict[str, Record]:
        """The inputs of all jobs of this gateway that have not ended, the oldest first."""
        found = await self._list(status=["PENDING", "ENQUEUED"], load_output=False)
        return {each.workflow_id: _parts(each)[0] for each in found}

    async def ended_before(self, moment: float) -> list[str]:
        """Ids of jobs that ended before ``moment`` (Unix seconds), the oldest first, at most some hundred."""
        text = datetime.fromtimestamp(moment, timezone.utc).isoformat()
        found = await self._list(status=_ENDED, completed_before=text, limit=_PAGE, load_input=False, load_output=False)
        return [each.workflow_id for each in found]

    async def latest(self, count: int) -> list[tuple[str, Record, Record | None]]:
        """The newest jobs: id, input, output."""
        found = await self._list(limit=count, sort_desc=True, name="job")
        return [(each.workflow_id, *_parts(each)) for each in found]

    async def delete(self, job_ids: list[str]) -> None:
        """Forget jobs."""
        await DBOS.delete_workflows_async(job_ids)

    @staticmethod
    async def _list(**filters: Any) -> list[WorkflowStatus]:
        try:
            return await DBOS.list_workflows_async(**filters)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise failed(error) from error


def _registered(kind: str, body: Body) -> Callable[[Record], Any]:
    @DBOS.workflow(name=kind, max_recovery_attempts=1000)
    async def run(record: Record) -> Record:
        assert DBOS.workflow_id is not None
        return await body(DBOS.workflow_id, record)

    return run


def _parts(status: WorkflowStatus) -> tuple[Record, Record | None]:
    given = status.input["args"][0] if status.input else {}
    if status.status in _ENDED and not isinstance(status.output, dict):
        return given, {"state": "failed", "error": {"code": "internal_error", "message": "The job store lost its end."}}
    return given, status.output if isinstance(status.output, dict) else None


def _sqlite(url: str) -> sqlalchemy.Engine:
    """As DBOS opens one, with a write-ahead log: a fourth of the time, and as durable."""
    engine = sqlalchemy.create_engine(url, pool_size=_CONNECTIONS, max_overflow=0, pool_timeout=60)

    @sqlalchemy.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in ("busy_timeout=30000", "foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine
