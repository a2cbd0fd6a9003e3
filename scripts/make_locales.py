"""Write what the editor shows of the nodes in other languages: ``locales/<language>/nodeDefs.json``.

    python scripts/make_locales.py [--check]

English comes from the nodes themselves, the other languages from ``translations/<language>.toml``. The files lie where
ComfyUI looks for them: at the top of the repository (a clone, the registry's archive) and in the pack
(``extra_model_paths.yaml``). ``--check`` writes nothing. It fails when a file is not current, and says so, as every run
does, of each text that has no translation yet, and of each translation whose text is gone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ryla_nodes.engines.protocol import running_in
from ryla_nodes.models.folders import ModelFolders
from ryla_nodes.nodes import node_classes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parents[1]
TABLES = Path(__file__).with_name("translations")
FOLDERS = (REPO / "locales", REPO / "custom_nodes" / "ryla_nodes" / "locales")
ENGLISH = "en"


class _NoFiles:
    """An engine without files: the nodes' lists of files are empty."""

    name = "none"

    def folders(self) -> ModelFolders:
        return ModelFolders({})


@dataclass(frozen=True)
class Table:
    """A language: names of inputs and outputs by their own, and texts by the English one; None: English itself."""

    names: Mapping[str, str] | None = None
    texts: Mapping[str, str] | None = None

    def name(self, name: str) -> str:
        return name if self.names is None else self.names.get(name, name)

    def text(self, text: str) -> str:
        return text if self.texts is None else self.texts.get(text, text)


def main() -> int:
    """Write or check every file; the number of faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    files = locales()
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    faults = list(differences())
    for path in [] if check else stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    faults += [f"{path.relative_to(REPO)} is not current: run {Path(__file__).name}" for path in stale if check]
    for fault in faults:
        print(fault, file=sys.stderr)
    return len(faults)


def languages() -> dict[str, Table]:
    """Every language by its code, English first."""
    tables = {ENGLISH: Table()}
    for path in sorted(TABLES.glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        tables[path.stem] = Table(table["names"], table["texts"])
    return tables


def locales() -> dict[Path, str]:
    """The text of every file."""
    schemas = node_schemas()
    found = {}
    for language, table in languages().items():
        definitions = {schema.node_id: definition(schema, table) for schema in schemas}
        text = json.dumps(definitions, indent=1, ensure_ascii=False) + "\n"
        found |= {folder / language / "nodeDefs.json": text for folder in FOLDERS}
    return found


def node_schemas() -> list[Any]:
    """The schema of every node, by id."""
    with running_in(_NoFiles()):
        return sorted((cls.GET_SCHEMA() for cls in node_classes()), key=lambda schema: str(schema.node_id))


def definition(schema: Any, table: Table) -> dict[str, Any]:
    """One node as the editor's translations have it."""
    return {
        "display_name": table.text(schema.display_name),
        "description": table.text(schema.description),
        "inputs": {
            item.id: {"name": table.name(item.id), "tooltip": table.text(item.tooltip)} for item in schema.inputs or ()
        },
        "outputs": {
            str(place): {"name": table.name(item.display_name), "tooltip": table.text(item.tooltip)}
            for place, item in enumerate(schema.outputs or ())
        },
    }


def english() -> tuple[set[str], set[str]]:
    """The names of all inputs and outputs, and all other texts of the nodes."""
    names, texts = set(), set()
    for schema in node_schemas():
        texts |= {schema.display_name, schema.description}
        for item in schema.inputs or ():
            names.add(item.id)
            texts.add(item.tooltip)
        for item in schema.outputs or ():
            names.add(item.display_name)
            texts.add(item.tooltip)
    return names, texts


def differences() -> Iterator[str]:
    """What is not translated, and what is translated in vain."""
    names, texts = english()
    for language, table in languages().items():
        for there, wanted in ((table.names, names), (table.texts, texts)):
            if there is not None:
                yield from (f"{language}: no translation of {text!r}" for text in sorted(wanted - there.keys()))
                yield from (f"{language}: nothing says {text!r} any more" for text in sorted(there.keys() - wanted))


if __name__ == "__main__":
    sys.exit(main())
