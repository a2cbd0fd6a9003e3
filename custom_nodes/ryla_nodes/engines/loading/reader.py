"""Weight files read by several threads at once, straight into tensors of a device.

One thread that maps a file into memory gives a GPU 5 GB/s. Here each thread reads parts of 16 MB into pinned buffers of
its own, and a stream of its own copies them on while the next ones are read: 20 GB/s and more where the file is in the
page cache. Each tensor has memory of its own, so that a part of a model can be let go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import torch

from ...errors import RylaError
from ...models.headers import Header, read_header
from . import layout
from .layout import Span

THREADS = 8
CHUNK_BYTES = 16 << 20
_BUFFERS = 2
_POLL_SECONDS = 0.05

Check = Callable[[], None]


def nothing() -> None:
    """No check."""


@dataclass
class Reading:
    """The tensors of one file on their way to a device."""

    targets: dict[str, torch.Tensor]
    stream: torch.cuda.Stream | None
    parts: list[Future[None]] = field(default_factory=list)

    def drop(self) -> None:
        """Let go of the tensors."""
        self.targets.clear()
        self.parts.clear()

    def tensors(self, check: Check = nothing) -> dict[str, torch.Tensor]:
        """Wait for the tensors and hand them over; once only.

        Args:
            check: called 20 times a second; what it raises ends the waiting.

        Raises:
            RylaError: ``truncated_file`` or ``unreadable_file``, also for a file that was changed meanwhile.
        """
        waiting: set[Future[None]] = set(self.parts)
        while waiting:
            check()
            done, waiting = wait(waiting, _POLL_SECONDS, FIRST_EXCEPTION)
            for part in done:
                part.result()
        if self.stream is not None:
            self.stream.synchronize()
        found = dict(self.targets)
        self.drop()
        return found


class Reader:
    """Threads that read files in the order in which they are given.

    A context manager: its end stops what is under way and lets go of tensors that nobody took.
    """

    def __init__(self, device: torch.device, threads: int = THREADS, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._device = device
        self._chunk_bytes = chunk_bytes
        self._pool = ThreadPoolExecutor(threads, "ryla-read")
        self._mine = threading.local()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._readings: list[Reading] = []

    def start(
        self,
        path: Path,
        names: Collection[str] | None = None,
        *,
        into: Mapping[str, torch.Tensor] | None = None,
        since: os.stat_result | None = None,
    ) -> Reading:
        """Begin to read a safetensors file, or those of its tensors that ``names`` has.

        Args:
            into: read these, to the memory that is there: plain, contiguous tensors on the device.
            since: the state in which the file has to be; as it is now when None.

        Raises:
            RylaError: what ``models.headers.read_header`` and ``layout.check`` raise.
            torch.OutOfMemoryError: the device has no room.
        """
        state = since or _state(path)
        header = read_header(path)
        layout.check(header)
        chosen = header.tensors.keys() if names is None else names
        targets = {name: self._empty(header, name) for name in chosen} if into is None else dict(into)
        reading = Reading(targets, self._stream)
        self._readings.append(reading)
        if self._stream is not None:  # The memory may be in use by what was queued before it was given back.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for chunk in layout.chunks(header, list(targets), self._chunk_bytes):
            reading.parts.append(self._pool.submit(self._fill, path, state, chunk, reading.targets))
        return reading

    def _empty(self, header: Header, name: str) -> torch.Tensor:
        dtype, shape = header.tensors[name]
        return torch.empty(shape, dtype=layout.DTYPES[dtype], device=self._device)

    # ComfyUI runs nodes in inference mode, and what is made in it can be changed in it only.
    @torch.inference_mode()
    def _fill(self, path: Path, state: os.stat_result, chunk: list[Span], targets: dict[str, torch.Tensor]) -> None:
        with _telling(path), path.open("rb", buffering=0) as file:
            _require_state(path, os.fstat(file.fileno()), state)
            file.seek(chunk[0].start)
            if self._stream is None:
                for span in chunk:
                    _read(path, file, _bytes(targets, span))
            else:
                self._send(path, file, chunk, targets, self._stream)
            _require_state(path, os.fstat(file.fileno()), state)

    def _send(
        self, path: Path, file: FileIO, chunk: list[Span], targets: dict[str, torch.Tensor], stream: torch.cuda.Stream
    ) -> None:
        """Read a chunk into pinned memory, and have the stream copy it on."""
        with torch.cuda.stream(stream):
            buffer, copied = self._free_buffer()
            _read(path, file, buffer[: sum(span.length for span in chunk)])
            for span in chunk:
                at = span.start - chunk[0].start
                _bytes(targets, span).copy_(buffer[at : at + span.length], non_blocking=True)
            copied.record(stream)

    def _free_buffer(self) -> tuple[torch.Tensor, torch.cuda.Event]:
        """This thread's next buffer, once its last content is on the device."""
        mine = self._mine
        if not hasattr(mine, "buffers"):
            mine.buffers = [
                (torch.empty(self._chunk_bytes, dtype=torch.uint8, pin_memory=True), torch.cuda.Event())  # type: ignore[no-untyped-call]
                for _ in range(_BUFFERS)
            ]
        mine.buffers.append(mine.buffers.pop(0))
        buffer, copied = mine.buffers[0]
        copied.synchronize()
        return buffer, copied

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop what is under way, and let go of tensors that nobody took."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._stream is not None:
            self._stream.synchronize()
        for reading in self._readings:
            reading.drop()


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Failures of the file system as ours."""
    try:
        yield
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror or error}.", path=path) from error


def _state(path: Path) -> os.stat_result:
    with _telling(path):
        return path.stat()


def _require_state(path: Path, now: os.stat_result, then: os.stat_result) -> None:
    if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
        line = f"{path} was changed while it was read."
        raise RylaError("unreadable_file", line, hint="Run it again when the file is whole.", path=path)


def _bytes(targets: dict[str, torch.Tensor], span: Span) -> torch.Tensor:
    return targets[span.name].view(-1).view(torch.uint8)[span.at : span.at + span.length]


def _read(path: Path, file: FileIO, target: torch.Tensor) -> None:
    """Fill ``target``, bytes in the CPU's memory, from where the file stands."""
    view = target.numpy().data.cast("B")
    while view:
        count = file.readinto(view)
        if not count:
            raise RylaError("truncated_file", f"{path} is truncated: it ended while it was read.", path=path)
        view = view[count:]
