"""The people of an acceptance run: photos that are given, or drawn ones; which can be used, and why others cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import RylaError
from ..files import of_suffix
from ..identity import demo_people

if TYPE_CHECKING:
    from ..identity.faces import FaceAnalyzer

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_DRAWN = 4
_SMALL = 256


@dataclass(frozen=True)
class People:
    """The usable photos of each person, and what is to be said of all of them.

    Attributes:
        genuine: the mean cosine of pairs of photos of one person; None when it is not known, and ``why`` not.
        notes: what is wrong with photos, one a line.
    """

    photos: Mapping[str, tuple[Path, ...]]
    genuine: float | None
    why: str
    notes: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        photos = {name: [str(path) for path in paths] for name, paths in self.photos.items()}
        return {"photos": photos, "genuine": self.genuine, "why": self.why, "notes": list(self.notes)}


NOBODY = People({}, None, "no workflow takes a photo", ())


def find(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The photos in ``folder``: a sub-folder for each person, or the folder itself for one.

    Raises:
        RylaError: ``nothing_to_evaluate``.
    """
    if not folder.is_dir():
        raise RylaError("nothing_to_evaluate", f"There is no folder {folder}.", hint="Give a folder of photos.")
    own = of_suffix(folder, SUFFIXES)
    folders = [folder] if own else sorted(path for path in folder.iterdir() if path.is_dir())
    found = {path.name or "person": tuple(of_suffix(path, SUFFIXES)) for path in folders}
    people = {name: paths for name, paths in found.items() if paths}
    if not people:
        hint = f"Put photos ({', '.join(SUFFIXES[:4])}) there, those of each person into a folder of their own."
        raise RylaError("nothing_to_evaluate", f"{folder} holds no photos.", hint=hint)
    return people


def drawn(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Drawn people, two photos each, in ``folder``; put there where they are not yet."""
    people: dict[str, tuple[Path, ...]] = {}
    for number in range(_DRAWN):
        home = folder / f"person-{number + 1}"
        home.mkdir(parents=True, exist_ok=True)
        photos = {name: home / f"{name}.png" for name in demo_people.REFERENCES}
        for name, path in photos.items():
            if not path.exists():
                demo_people.save(number, name, path)
        people[home.name] = tuple(photos.values())
    return people


def examined(people: Mapping[str, tuple[Path, ...]], analyzer: Callable[[], FaceAnalyzer]) -> People:
    """The people whose photos can be used; where faces cannot be analysed here, those whose files are pictures.

    Raises:
        RylaError: ``nothing_to_evaluate`` when none is left.
    """
    try:
        usable, genuine, notes = _by_face(people, analyzer())
        why = "two or more photos of a person are needed"
    except RylaError as error:
        why = f"{error.message} {error.hint}".strip()
        usable, notes = _by_file(people)
        genuine = None
        notes = [f"The photos' faces are not checked on this machine: {why}", *notes]
    if not usable:
        raise RylaError("nothing_to_evaluate", f"None of the photos can be used. {' '.join(notes)}")
    return People(usable, genuine, "" if genuine is not None else why, tuple(notes))


def _by_face(
    people: Mapping[str, tuple[Path, ...]], analyzer: FaceAnalyzer
) -> tuple[dict[str, tuple[Path, ...]], float | None, list[str]]:
    from ..identity import photos

    usable, findings = photos.examine_people(analyzer, people)
    notes = [f"{finding.message}{' It is left out.' if finding.fatal else ''}" for finding in findings]
    paths = {name: tuple(reference.path for reference in references) for name, references in usable.items()}
    return paths, photos.genuine(usable), list(dict.fromkeys(notes))


def _by_file(people: Mapping[str, tuple[Path, ...]]) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    usable: dict[str, tuple[Path, ...]] = {}
    notes = []
    for name, paths in people.items():
        for path in paths:
            problem = _unreadable(path)
            if problem:
                notes.append(f"{problem} It is left out.")
            else:
                usable[name] = (*usable.get(name, ()), path)
    return usable, notes


def _unreadable(path: Path) -> str:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (_SMALL, _SMALL))
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"{path} is no picture, or damaged: {error}."
    return ""
