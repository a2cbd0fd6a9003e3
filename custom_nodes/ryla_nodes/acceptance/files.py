"""The files of a report: ``report.json``, ``report.md`` and a ``report.html`` that needs no other file."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import RylaError
from ..files import write_whole
from .page import html
from .report import Report, markdown


def write(report: Report, folder: Path) -> dict[str, str]:
    """Write the three files whole or not at all; the path of each by its kind.

    Raises:
        RylaError: ``output_not_writable``.
    """
    contents = {
        "json": json.dumps(report.as_dict(), ensure_ascii=False, indent=1, default=str) + "\n",
        "md": markdown(report),
        "html": html(report, folder),
    }
    paths = {kind: folder / f"report.{kind}" for kind in contents}
    for kind, content in contents.items():
        try:
            write_whole(paths[kind], content.encode())
        except OSError as error:
            message = f"{paths[kind]} cannot be written: {error.strerror}."
            raise RylaError("output_not_writable", message, path=str(paths[kind])) from error
    return {kind: str(path) for kind, path in paths.items()}
