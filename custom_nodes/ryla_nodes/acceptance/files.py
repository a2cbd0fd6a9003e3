"""The files of a report: ``report.json``, ``report.md`` and a ``report.html`` that needs no other file."""

from __future__ import annotations

import json
from pathlib import Path

from ..client import results
from .page import html
from .report import Report, markdown


def write(report: Report, folder: Path) -> dict[str, str]:
    """Write the three files whole or not at all; the path of each by its kind.

    Raises:
        RylaError: ``output_not_writable``, ``disk_full``.
    """
    contents = {
        "json": json.dumps(report.as_dict(), ensure_ascii=False, indent=1, default=str) + "\n",
        "md": markdown(report),
        "html": html(report, folder),
    }
    paths = {kind: folder / f"report.{kind}" for kind in contents}
    for kind, content in contents.items():
        results.write(paths[kind], content.encode())
    return {kind: str(path) for kind, path in paths.items()}
