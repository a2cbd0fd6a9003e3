"""What passes between a gateway and a replica, pickled by Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...client import Progress, Result
from ...client.uploads import read
from ...errors import RylaError
from ...files import write_whole
from ...workflows.workflow import BoundPrompt
from ..probe import Sight
from .options import pack_version


@dataclass(frozen=True)
class Order:
    """One job for a replica.

    Attributes:
        prompt_id: the engine's id of it; a replica that knows it already begins nothing new.
        timeout: seconds that it may take from the moment that a replica has it.
        files: the bytes of its pictures, by the paths that its prompt has for them.
        version: of the pack that asks.
    """

    prompt: BoundPrompt
    prompt_id: str
    timeout: float
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    version: str = ""

    @classmethod
    def of(cls, prompt: BoundPrompt, prompt_id: str, timeout: float) -> Order:
        """An order with the pictures that the prompt names on this machine.

        Raises:
            RylaError: ``unreadable_file``, ``input_changed``.
        """
        files = {str(upload.path): read(upload.path, upload.sha256)[0] for upload in prompt.uploads}
        return cls(prompt, prompt_id, timeout, files, pack_version())

    def unpacked(self, folder: Path) -> BoundPrompt:
        """Its prompt, with the pictures in ``folder``.

        Raises:
            RylaError: ``disk_full``.
        """
        uploads = []
        for number, upload in enumerate(self.prompt.uploads):
            path = folder / f"{self.prompt_id}-{number}{upload.path.suffix}"
            try:
                write_whole(path, self.files[str(upload.path)])
            except OSError as error:
                raise RylaError("disk_full", f"A photo could not be stored: {error.strerror}.") from error
            uploads.append(replace(upload, path=path))
        return replace(self.prompt, uploads=tuple(uploads))


@dataclass(frozen=True)
class Refused:
    """The replica did not begin the job. ``lasting``: no other replica would."""

    error: RylaError
    lasting: bool = False


Report = Progress | Result | Refused


@dataclass(frozen=True)
class ReplicaSight:
    """What a replica tells of itself and its engine."""

    name: str
    version: str
    sight: Sight
