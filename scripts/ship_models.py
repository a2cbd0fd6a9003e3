"""Put trained models into the package: ``python scripts/ship_models.py OUT`` after ``python -m training OUT``, or after
``python -m training.sdxl OUT``.

Copies what the training left in OUT over the package's own models and writes their sizes and hashes into the catalogue.
FLUX's files and those of SDXL with its face models are two sets, shipped one by one or together. Nothing is touched
unless every file of a set is there, whole, of its kind, in half precision (SDXL's and InstantID's matrices may be 8-bit
floats), and all models of the package together are small enough. The same files twice change nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ryla_nodes.errors import RylaError
from ryla_nodes.files import copy, replacing, sha256
from ryla_nodes.models import catalogue as catalogues
from ryla_nodes.models import shipped
from ryla_nodes.models.catalogue import FILE_KINDS, ModelEntry
from ryla_nodes.models.headers import read_header
from ryla_nodes.models.identify import examine

CATALOGUE = Path(catalogues.__file__).with_name("catalogue.toml")
LIMIT = 80_000_000
"""Bytes of all models together."""
IDENTITY_FOLDERS = ("checkpoints", "instantid", "controlnet", "insightface")
HALF, EIGHT_BITS = "F16", "F8_E4M3"


class Refused(Exception):
    """The models are not what the package ships."""


def entries() -> dict[str, ModelEntry]:
    """The catalogue's shipped models, by their places in the package."""
    return {f"{entry.folder}/{entry.filename}": entry for entry in catalogues.load(CATALOGUE) if entry.shipped}


def made(out: Path) -> dict[str, Path]:
    """The files that trainings left in ``out``, by their places in the package."""
    folders = {out / "models": "", faces_of(out): shipped.insightface().relative_to(shipped.ROOT).as_posix() + "/"}
    return {
        f"{place}{path.relative_to(folder).as_posix()}": path
        for folder, place in folders.items()
        for path in folder.rglob("*")
        if path.is_file()
    }


def faces_of(out: Path) -> Path:
    """InsightFace's folder in a training's."""
    return out / "faces" / "insightface"


def is_identity(entry: ModelEntry) -> bool:
    """Whether a model is of the set of SDXL and the face models."""
    return entry.folder in IDENTITY_FOLDERS


def check(out: Path, files: Mapping[str, Path]) -> dict[str, ModelEntry]:
    """The entries of the sets that are in ``files``, by place.

    Raises:
        Refused, RylaError: files are missing, unknown, wrong inside, or too large.
    """
    known = entries()
    there = {is_identity(known[place]) for place in files.keys() & known.keys()}
    wanted = {place: entry for place, entry in known.items() if is_identity(entry) in there}
    if not wanted or files.keys() != wanted.keys():
        missing, unknown = sorted((wanted or known).keys() - files), sorted(files.keys() - known)
        raise Refused(f"{out}: missing {missing}, not in the catalogue {unknown}.")
    total = sum(files[place].stat().st_size if place in files else entry.size or 0 for place, entry in known.items())
    if total >= LIMIT:
        raise Refused(f"{out}: {total:,} bytes with all that is shipped; the limit is {LIMIT:,}.")
    for place, entry in wanted.items():
        _check(files[place], entry)
    if any(map(is_identity, wanted.values())):
        _load_faces(faces_of(out))
    return wanted


def _check(path: Path, entry: ModelEntry) -> None:
    kind = examine(path)
    if entry.kind not in FILE_KINDS:
        return
    if kind.value != entry.kind:
        raise Refused(f"{path} is {kind.description}, not a {entry.kind}.")
    allowed = (HALF, EIGHT_BITS) if is_identity(entry) else (HALF,)
    wrong = [name for name, (dtype, _) in read_header(path).tensors.items() if dtype not in allowed]
    if wrong:
        raise Refused(f"{path}: {wrong[0]} and {len(wrong) - 1} more are not {' or '.join(allowed)}.")


def _load_faces(folder: Path) -> None:
    """Let InsightFace open all three; raises ``unreadable_model``."""
    from ryla_nodes.identity import runtime
    from ryla_nodes.identity.faces import FaceAnalyzer
    from ryla_nodes.models.identity_files import find_pack, find_scorer

    FaceAnalyzer(find_pack([folder]), "CPU", [folder])
    runtime.open_recogniser(find_scorer([folder]), "CPU")


def ship(out: Path, target: Path, catalogue: Path) -> list[str]:
    """Copy what is in ``out``, checked, to ``target``, rewrite ``catalogue``; the places of the files that changed."""
    files = made(out)
    changed, text = [], catalogue.read_text(encoding="utf-8")
    for name, entry in check(out, files).items():
        source, place = files[name], target / name
        digest = sha256(source)
        text = _described(text, entry.id, source.stat().st_size, digest)
        if not place.is_file() or sha256(place) != digest:
            _put(source, place)
            changed.append(name)
    catalogue.write_text(text, encoding="utf-8")
    return changed


def _put(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as part:  # Another file under the name: the old one may be linked to from elsewhere.
        copy(source, part)


def _described(text: str, model_id: str, size: int, digest: str) -> str:
    """The catalogue's text with another size and hash in one table."""
    start = text.index(f'id = "{model_id}"\n')
    end = (text + "\n[[").index("\n[[", start)
    table = re.sub(r"^size = \d+$", f"size = {size}", text[start:end], flags=re.MULTILINE)
    table = re.sub(r'^sha256 = "\w+"$', f'sha256 = "{digest}"', table, flags=re.MULTILINE)
    return text[:start] + table + text[end:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a training's folder")
    out = parser.parse_args().out
    try:
        changed = ship(out, shipped.ROOT, CATALOGUE)
    except (Refused, RylaError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name in changed:
        print(f"shipped {name}")
    total = sum((shipped.ROOT / name).stat().st_size for name in entries() if (shipped.ROOT / name).is_file())
    print(f"{len(changed)} files changed, {total / 1e6:.1f} MB in all, in {shipped.ROOT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
