"""Write what the benchmarks for a GPU have found into docs/benchmarks.md, between its two marks.

    python benchmarks/write_tables.py FOLDER [--document docs/benchmarks.md]

FOLDER is what OUT named while benchmarks/gpu_*.py ran: its *.json are lists of rows, each with its kind in `row`. Kinds
that were not run keep no table: the marks hold one run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks/write_tables.py begins -->", "<!-- benchmarks/write_tables.py ends -->"
Row = dict[str, Any]
# Kind of row -> what its table is called, and its columns: heading and key.
TABLES: dict[str, tuple[str, Sequence[tuple[str, str]]]] = {
    "workflow": (
        "Warm pictures of `ryla run flux-dev`, *stock* is core's nodes with core's PNG",
        (("mode", "mode"), ("first", "first_s"), ("warm, s", "warm_s"), ("of stock", "of_stock")),
    ),
    "warm": (
        "The same with one way of saving, and what the modes change",
        (
            ("mode", "mode"),
            ("warm, s", "warm_s"),
            ("of stock", "of_stock"),
            ("ms a step", "ms_a_step"),
            ("latent, relative error", "latent_error"),
            ("picture, PSNR dB", "psnr_db"),
        ),
    ),
    "cold": (
        "From the start of the process, page cache empty",
        (("round", "name"), ("server, s", "start_s"), ("first, s", "first_s"), ("both, s", "start_to_picture_s")),
    ),
    "filled": (
        "The first picture, page cache warm, with what an earlier process kept",
        (("round", "name"), ("server, s", "start_s"), ("first, s", "first_s"), ("warm, s", "warm_s")),
    ),
    "first": (
        "Empty and filled caches of compiled code, another size",
        (
            ("round", "name"),
            ("first, s", "first_s"),
            ("warm, s", "warm_s"),
            ("another size, first, s", "other_size_first_s"),
            ("and then, s", "other_size_warm_s"),
        ),
    ),
    "lora": (
        "Another LoRA for each picture",
        (("mode", "mode"), ("LoRAs", "order"), ("s", "seconds"), ("the first again", "back_is_equal")),
    ),
    "identity": (
        "InstantID, medians; *of flux-dev* is of FLUX's stage alone with `speed` off",
        (
            ("ComfyUI of", "process"),
            ("run", "run"),
            ("s", "seconds"),
            ("of flux-dev", "of_flux_dev"),
            ("allocated, GB", "peak_allocated_gb"),
            ("the whole card, GB", "device_gb_after"),
        ),
    ),
    "embedded": (
        "The embedded engine",
        (("mode or round", "mode"), ("first, s", "first_s"), ("warm, s", "warm_s"), ("latent, error", "latent_error")),
    ),
    "variants": (
        "`fast` with other options of the compiler",
        (("options", "name"), ("first, s", "first_s"), ("a step, least and median, ms", "ms"), ("error", "error")),
    ),
    "vae": (
        "The VAE's decoder",
        (("variant", "name"), ("first, s", "first_s"), ("ms", "ms"), ("PSNR dB", "psnr_db")),
    ),
}


def rows_in(folder: Path) -> list[Row]:
    """All rows of all files, in the order of the files' names."""
    found: list[Row] = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text())
        found += [row for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    return found


def shown(value: Any) -> str:
    """A cell: figures as they are, lists with commas."""
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(each) or "none" for each in value)
    if isinstance(value, bool):
        return "equal" if value else "DIFFERENT"
    return "" if value is None else str(value).replace("|", "/")


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Row]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [[heading for heading, _ in columns], ["---"] * len(columns)]
    lines += [[shown(row.get(key, row.get("name") if key == "mode" else None)) for _, key in columns] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def tables(rows: Sequence[Row]) -> str:
    """A table of each kind that was measured."""
    parts = []
    for kind, (title, columns) in TABLES.items():
        mine = [row for row in rows if row.get("row") == kind]
        if mine:
            parts.append("\n".join([f"{title}:", "", *table(columns, mine)]))
    return "\n\n".join(parts)


def written(document: str, content: str) -> str:
    """``document`` with ``content`` between the marks. Raises ``ValueError`` without them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"There is no {BEGIN} with a {END} behind it.")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--document", type=Path, default=REPO / "docs" / "benchmarks.md")
    options = parser.parse_args()
    content = tables(rows_in(options.folder))
    if not content:
        parser.error(f"there are no rows in {options.folder}")
    options.document.write_text(written(options.document.read_text(), content))
    print(content)


if __name__ == "__main__":
    main()
