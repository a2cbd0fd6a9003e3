"""The files of a job: where it was submitted, that it is to be cancelled, its photos and pictures.

One gateway keeps them in a folder. Several that share a Postgres keep them there, where each of them finds them.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import RylaError
from ..files import write_whole
from .database import Database

PHOTO = "photo-"
"""What the names of a job's photos begin with."""


class JobMoved(Exception):
    """The job was taken over by another gateway: this one must do no more for it."""


class JobFiles(Protocol):
    """Files by job and name. Calls block.

    Attributes:
        shared: other gateways find them, too.
    """

    shared: bool

    def write(self, job_id: str, name: str, content: bytes, *, owner: str = "") -> None:
        """Write a whole file, on disk before this returns.

        Args:
            owner: the gateway that must have the job; "" for any.

        Raises:
            RylaError: ``disk_full``, ``job_store_unreachable``.
            JobMoved: another gateway has the job.
        """

    def read(self, job_id: str, name: str) -> bytes | None:
        """A file; None when it is not there."""

    def forget(self, job_id: str, beginning: str = "") -> None:
        """Delete a job's files, or those whose names begin so."""

    def among(self, job_ids: frozenset[str], name: str) -> list[str]:
        """Which of these jobs have a file of this name."""

    def shrink(self, most: int, alive: frozenset[str]) -> int:
        """Delete the files of the oldest jobs until all take ``most`` bytes; how many jobs lost theirs."""


class FolderFiles:
    """A folder a job; of several thousand none lies beside all others."""

    shared = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _of(self, job_id: str) -> Path:
        return self._folder / job_id[:2] / job_id

    def write(self, job_id: str, name: str, content: bytes, *, owner: str = "") -> None:
        try:
            self._of(job_id).mkdir(parents=True, exist_ok=True)
            write_whole(self._of(job_id) / name, content)
        except OSError as error:
            raise RylaError("disk_full", f"The job's folder cannot be written: {error.strerror}.") from error

    def read(self, job_id: str, name: str) -> bytes | None:
        try:
            return (self._of(job_id) / name).read_bytes()
        except OSError:
            return None

    def forget(self, job_id: str, beginning: str = "") -> None:
        if not beginning:
            shutil.rmtree(self._of(job_id), ignore_errors=True)
            return
        for path in self._of(job_id).glob(f"{beginning}*"):
            path.unlink(missing_ok=True)

    def among(self, job_ids: frozenset[str], name: str) -> list[str]:
        return [job_id for job_id in job_ids if (self._of(job_id) / name).exists()]

    def shrink(self, most: int, alive: frozenset[str]) -> int:
        folders = [path for group in self._folder.iterdir() if group.is_dir() for path in group.iterdir()]
        jobs = [_kept(path) for path in folders if path.name not in alive]
        total, removed = sum(job.size for job in jobs), 0
        for job in sorted(jobs, key=lambda job: job.modified):
            if total <= most:
                break
            shutil.rmtree(job.path, ignore_errors=True)
            total, removed = total - job.size, removed + 1
        return removed


@dataclass(frozen=True)
class _Kept:
    path: Path
    size: int
    modified: float


def _kept(path: Path) -> _Kept:
    sizes = []
    for file in path.iterdir():
        with contextlib.suppress(OSError):
            sizes.append(file.stat().st_size)
    try:
        modified = path.stat().st_mtime
    except OSError:
        modified = 0.0
    return _Kept(path, sum(sizes), modified)


_WRITE = """
INSERT INTO ryla.files (job, name, content) VALUES (:job, :name, :content)
ON CONFLICT (job, name) DO UPDATE SET content = excluded.content, written = now()
"""
# The row of the job is locked meanwhile, so that nobody takes it over between the check and the write.
_WRITE_OWN = """
INSERT INTO ryla.files (job, name, content)
SELECT :job, :name, :content FROM dbos.workflow_status
WHERE workflow_uuid = :job AND executor_id = :owner FOR SHARE
ON CONFLICT (job, name) DO UPDATE SET content = excluded.content, written = now()
"""
_OLDEST_FIRST = """
SELECT job, sum(length(content)) FROM ryla.files GROUP BY job ORDER BY max(written)
"""


class DatabaseFiles:
    """Rows of a table."""

    shared = True

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, job_id: str, name: str, content: bytes, *, owner: str = "") -> None:
        values: dict[str, Any] = {"job": job_id, "name": name, "content": content}
        if not owner:
            self._database.change(_WRITE, **values)
        elif not self._database.change(_WRITE_OWN, owner=owner, **values):
            raise JobMoved(job_id)

    def read(self, job_id: str, name: str) -> bytes | None:
        found = self._database.rows(
            "SELECT content FROM ryla.files WHERE job = :job AND name = :name", job=job_id, name=name
        )
        return bytes(found[0][0]) if found else None

    def forget(self, job_id: str, beginning: str = "") -> None:
        self._database.change(
            "DELETE FROM ryla.files WHERE job = :job AND starts_with(name, :beginning)", job=job_id, beginning=beginning
        )

    def among(self, job_ids: frozenset[str], name: str) -> list[str]:
        found = self._database.rows(
            "SELECT job FROM ryla.files WHERE name = :name AND job = ANY(:jobs)", name=name, jobs=list(job_ids)
        )
        return [str(row[0]) for row in found]

    def shrink(self, most: int, alive: frozenset[str]) -> int:
        jobs = [(str(job), int(size)) for job, size in self._database.rows(_OLDEST_FIRST) if job not in alive]
        total, removed = sum(size for _, size in jobs), 0
        for job_id, size in jobs:
            if total <= most:
                break
            self.forget(job_id)
            total, removed = total - size, removed + 1
        return removed
