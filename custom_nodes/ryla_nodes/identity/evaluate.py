"""Judge a folder of pictures: every output against its person's reference photos.

Layout: one sub-folder a person (or the folder itself for one person). Files whose name starts with ``reference`` are
the person's real photos, all others are outputs to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RylaError
from ..files import of_suffix
from .images import read_photo
from .similarity import Score, Summary, best, embedding, reference_embedding, summarize

if TYPE_CHECKING:
    from .faces import FaceAnalyzer
    from .geometry import Array

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
REFERENCE = "reference"
_TILE = 192
_COLUMNS = 8


@dataclass(frozen=True)
class Person:
    """One person's real photos and the pictures to judge."""

    name: str
    references: tuple[Path, ...]
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class Evaluation:
    """Scores in the order of ``people``'s outputs, and their statistics."""

    people: tuple[Person, ...]
    scores: tuple[Score, ...]
    summary: Summary


def find_people(folder: Path) -> tuple[Person, ...]:
    """The people in ``folder``. Raises ``nothing_to_evaluate`` when one lacks a reference or there are no outputs."""
    if not folder.is_dir():
        raise RylaError("nothing_to_evaluate", f"There is no folder {folder}.")
    own = of_suffix(folder, SUFFIXES)
    folders = [folder] if own else sorted(path for path in folder.iterdir() if path.is_dir())
    people = tuple(_person(path) for path in folders if of_suffix(path, SUFFIXES))
    if not any(person.outputs for person in people):
        raise RylaError("nothing_to_evaluate", f"{folder} holds no pictures to judge.")
    return people


def _person(folder: Path) -> Person:
    pictures = of_suffix(folder, SUFFIXES)
    references = tuple(path for path in pictures if path.name.lower().startswith(REFERENCE))
    if not references:
        raise RylaError("nothing_to_evaluate", f"{folder} has no photo whose name starts with {REFERENCE!r}.")
    return Person(folder.name, references, tuple(path for path in pictures if path not in references))


def evaluate(analyzer: FaceAnalyzer, people: tuple[Person, ...], threshold: float) -> Evaluation:
    """Score every output of every person; an output without a face fails, a reference without one is an error."""
    scores: list[Score] = []
    references: list[list[Array]] = []
    for person in people:
        known = [reference_embedding(analyzer, read_photo(path), str(path)) for path in person.references]
        references.append(known)
        for path in person.outputs:
            similarity = best(known, embedding(analyzer, read_photo(path)))
            scores.append(Score(person.name, path.name, similarity, threshold))
    return Evaluation(people, tuple(scores), summarize(scores, references))


def write_contact_sheet(evaluation: Evaluation, path: Path) -> None:
    """One row a person (wrapped at 8): the first reference, then every output with its score, failures in red."""
    from PIL import Image

    from ..sheet import Sheet, Style

    tiles = list(_tiles(evaluation))
    rows = max(row for row, *_ in tiles) + 1
    columns = max(column for _, column, *_ in tiles) + 1
    sheet = Sheet(columns, rows, Style(tile=_TILE, gap=0, font=10, paper="white"))
    for row, column, picture, caption, color in tiles:
        sheet.add(column, row, Image.fromarray(read_photo(picture, _TILE)), caption, ink=color)
    sheet.image.save(path)


def _tiles(evaluation: Evaluation) -> Iterator[tuple[int, int, Path, str, str]]:
    """(row, column, picture, caption, colour) of every tile."""
    row, scores = 0, iter(evaluation.scores)
    for person in evaluation.people:
        yield row, 0, person.references[0], person.name[:28], "black"
        for number, path in enumerate(person.outputs):
            score = next(scores)
            column = 1 + number % (_COLUMNS - 1)
            if number and column == 1:
                row += 1
            shown = "no face" if score.similarity is None else f"{score.similarity:.3f}"
            yield row, column, path, f"{shown} {path.name}"[:28], "darkgreen" if score.passed else "red"
        row += 1
