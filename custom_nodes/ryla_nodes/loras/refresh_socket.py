"""A volume's reload that only one process can make, asked for by others of this machine.

On Modal the container's own process reloads a volume, and a ComfyUI beside it looks for the LoRA. RYLA_VOLUME_REFRESH
is ``command(path)`` there, which asks at the socket.
"""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

_ASK = "import sys; sys.path.insert(0, sys.argv[1]); from ryla_nodes.loras.refresh_socket import main; sys.exit(main())"
_SECONDS = 55.0  # Below the limit of RYLA_VOLUME_REFRESH, so that the reason is told.


@asynccontextmanager
async def listening(path: Path, refresh: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call ``refresh`` for whoever connects to the Unix socket ``path``; what it raises is told there."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await refresh()
            told = "ok"
        except (OSError, RuntimeError) as error:
            told = str(error) or type(error).__name__
        writer.write(told.encode())
        await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def command(path: Path) -> str:
    """What RYLA_VOLUME_REFRESH is set to."""
    return shlex.join([sys.executable, "-c", _ASK, str(Path(__file__).resolve().parents[2]), str(path)])


def main() -> int:
    """Ask; the exit status is 0 when the volume was refreshed."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(sys.argv[2])
            told = b"".join(iter(lambda: connection.recv(4096), b"")).decode(errors="replace")
    except OSError as error:
        told = f"{sys.argv[2]}: {error}"
    if told != "ok":
        print(told or "no answer", file=sys.stderr)  # noqa: T201
    return int(told != "ok")
