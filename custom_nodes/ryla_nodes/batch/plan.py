"""What a batch is going to do: every row bound, those that are made found again, a path for each of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..client.async_client import bound
from ..errors import RylaError
from ..settings import Settings
from ..workflows.workflow import BoundPrompt, Workflow
from .fingerprint import Fingerprints
from .journal import Journal
from .naming import Claims
from .rows import Row
from .runner import Planned

Place = Callable[[Row, BoundPrompt], Path]
"""The path of a row's first picture."""


def plan(
    workflow: Workflow, rows: Sequence[Row], place: Place, journal: Journal, claims: Claims, settings: Settings
) -> list[Planned]:
    """Bind every row. One that was begun before keeps the seed and, when it is made, the files that it had.

    Raises:
        RylaError: what binding raises, with the row of the file.
    """
    fingerprints = Fingerprints(settings)
    bare: list[Planned] = []
    for row in rows:
        values = dict(row.values)
        seed = journal.seed(row)
        if seed is not None:
            values.setdefault("seed", seed)
        try:
            prompt = fingerprints.sealed(bound(workflow, values, settings))
        except RylaError as error:
            raise _at(row, error) from error
        bare.append(Planned(row, prompt, place(row, prompt), fingerprints.of(prompt)))
    made = _made(bare, journal)
    claims.keep(path for files in made.values() for path in files)
    return [_placed(planned, made.get(planned.row.index, ()), journal, claims) for planned in bare]


def _made(bare: Sequence[Planned], journal: Journal) -> dict[int, tuple[Path, ...]]:
    """Index of each row that is made -> its pictures; a row's own come before those of an equal job."""
    made: dict[int, tuple[Path, ...]] = {}
    claimed: set[Path] = set()
    for own in (True, False):
        for planned in bare:
            row = planned.row
            if row.index not in made:
                files = journal.made(planned.fingerprint, row if own else None, claimed)
                if files:
                    made[row.index] = files
                    claimed.update(files)
    return made


def _placed(planned: Planned, made: tuple[Path, ...], journal: Journal, claims: Claims) -> Planned:
    if made:
        return replace(planned, path=made[0], made=made)
    own = journal.own(planned.fingerprint, planned.row)
    return replace(planned, path=claims.plan(planned.path), own=own)


def _at(row: Row, error: RylaError) -> RylaError:
    if row.source:
        error.message = f"Row {row.source}: {error.message}"
        error.details["row"] = row.source
    return error
