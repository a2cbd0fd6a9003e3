"""From the engine's record of a job to the pictures that its workflow declares, and to nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ..errors import RylaError
from .api import EngineApi
from .failures import Subject
from .pictures import Picture, complete, identify
from .protocol import HistoryEntry
from .transport import CallFailed

_FOLDER = "output"
_TRIES = 3
_PAUSE = 0.4


class OutputGone(Exception):
    """The engine names a file that it no longer has: the result of an earlier, cached run was deleted."""

    def __init__(self, node_id: str, filename: str) -> None:
        super().__init__(filename)
        self.node_id, self.filename = node_id, filename


async def fetch(engine: EngineApi, subject: Subject, entry: HistoryEntry) -> tuple[Picture, ...]:
    """Download every picture of the declared outputs. Files of other nodes and previews (``temp``) are no results.

    Raises:
        OutputGone: the engine has no such file.
        RylaError: ``missing_output``, ``bad_output``, ``transfer_failed``, ``server_gone``.
    """
    wanted = [
        (output.node_id, item) for output in subject.outputs for item in _items(entry.outputs.get(output.node_id, {}))
    ]
    for output in subject.outputs:
        if not any(node_id == output.node_id for node_id, _ in wanted):
            message = f"{subject.node(output.node_id)} saved no picture on {subject.server}."
            raise RylaError("missing_output", message, server=subject.server, prompt_id=subject.prompt_id)
    return tuple(await asyncio.gather(*(_picture(engine, subject, node_id, item) for node_id, item in wanted)))


def _items(outputs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Whatever list a node puts its files in, an entry with a file name and the right folder is one."""
    return [
        item
        for listed in outputs.values()
        if isinstance(listed, list)
        for item in listed
        if isinstance(item, dict) and isinstance(item.get("filename"), str) and item.get("type", _FOLDER) == _FOLDER
    ]


async def _picture(engine: EngineApi, subject: Subject, node_id: str, item: Mapping[str, Any]) -> Picture:
    name, subfolder = item["filename"], str(item.get("subfolder") or "")
    where = f"{name} of {subject.node(node_id)} on {subject.server}"
    facts = {"server": subject.server, "prompt_id": subject.prompt_id, "filename": name}
    data = await _download(engine, name, subfolder, where, facts)
    if data is None:
        raise OutputGone(node_id, name)
    kind = identify(data)
    if kind is None:
        head = data[:4].hex(" ") or "nothing"
        raise RylaError("bad_output", f"{where} is no picture: it begins with {head}.", **facts)
    if not complete(data, kind):
        raise RylaError("bad_output", f"{where} is cut off after {len(data)} bytes.", **facts)
    return Picture(data, kind, node_id, name, subfolder, _FOLDER)


async def _download(engine: EngineApi, name: str, subfolder: str, where: str, facts: dict[str, str]) -> bytes | None:
    """The file; None when the engine has no such file. An engine that is down is given time to come back."""
    began, failures = time.monotonic(), 0
    while True:
        try:
            return await engine.view(name, subfolder, _FOLDER)
        except CallFailed as error:
            failures += not error.refused
            if failures == _TRIES:
                message = f"{where} could not be downloaded: {error}."
                raise RylaError("transfer_failed", message, **facts) from error
            if error.refused and time.monotonic() - began >= engine.limits.gone_after:
                message = f"{engine.server} went away after it had made {name}, and has not come back."
                raise RylaError("server_gone", message, **facts) from error
        await asyncio.sleep(_PAUSE)
