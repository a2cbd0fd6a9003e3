"""Put trained models into the package: ``python scripts/ship_models.py OUT`` after ``python -m training OUT``.

Copies ``OUT/models`` over the package's own models and writes their sizes and hashes into the catalogue. Nothing is
touched unless every file of the catalogue is there, whole, of its kind, in half precision, and all are small enough.
The same files twice change nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ryla_nodes.errors import RylaError
from ryla_nodes.files import copy, replacing, sha256
from ryla_nodes.models import catalogue as catalogues
from ryla_nodes.models import shipped
from ryla_nodes.models.catalogue import FILE_KINDS, ModelEntry
from ryla_nodes.models.headers import read_header
from ryla_nodes.models.identify import examine

CATALOGUE = Path(catalogues.__file__).with_name("catalogue.toml")
LIMIT = 40_000_000
"""Bytes of all models together."""
HALF = "F16"


class Refused(Exception):
    """The models are not what the package ships."""


def entries() -> list[ModelEntry]:
    """The catalogue's shipped models."""
    return [entry for entry in catalogues.load(CATALOGUE) if entry.shipped]


def check(models: Path, wanted: Sequence[ModelEntry]) -> None:
    """Raise ``Refused`` (or a ``RylaError``) for files that are missing, unknown, wrong inside, or too large."""
    files = {f"{entry.folder}/{entry.filename}": entry for entry in wanted}
    there = {path.relative_to(models).as_posix() for path in models.rglob("*") if path.is_file()}
    if there != files.keys():
        missing, unknown = sorted(files.keys() - there), sorted(there - files.keys())
        raise Refused(f"{models}: missing {missing}, not in the catalogue {unknown}.")
    total = sum((models / name).stat().st_size for name in files)
    if total >= LIMIT:
        raise Refused(f"{models}: {total:,} bytes; the limit is {LIMIT:,}.")
    for name, entry in files.items():
        _check(models / name, entry)


def _check(path: Path, entry: ModelEntry) -> None:
    kind = examine(path)
    if entry.kind not in FILE_KINDS:
        return
    if kind.value != entry.kind:
        raise Refused(f"{path} is {kind.description}, not a {entry.kind}.")
    wrong = [name for name, (dtype, _) in read_header(path).tensors.items() if dtype != HALF]
    if wrong:
        raise Refused(f"{path}: {wrong[0]} and {len(wrong) - 1} more are not {HALF}.")


def ship(models: Path, target: Path, catalogue: Path) -> list[str]:
    """Copy the checked ``models`` to ``target``, rewrite ``catalogue``; the names of the files that changed."""
    wanted = entries()
    check(models, wanted)
    changed, text = [], catalogue.read_text(encoding="utf-8")
    for entry in wanted:
        name = f"{entry.folder}/{entry.filename}"
        source, place = models / name, target / name
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
    parser.add_argument("out", type=Path, help="the training's folder; its models/ is shipped")
    models = parser.parse_args().out / "models"
    try:
        changed = ship(models, shipped.ROOT, CATALOGUE)
    except (Refused, RylaError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name in changed:
        print(f"shipped {name}")
    total = sum((models / f"{entry.folder}/{entry.filename}").stat().st_size for entry in entries())
    print(f"{len(changed)} files changed, {total / 1e6:.1f} MB in all, in {shipped.ROOT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
