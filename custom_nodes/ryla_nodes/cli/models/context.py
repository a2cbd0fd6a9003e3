"""What the model commands work on: the catalogue, the workflows' needs, the folders and the target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ... import settings as env
from ...errors import RylaError
from ...models import catalogue as catalogues
from ...models import plan, shipped, workspace
from ...models.catalogue import Catalogue
from ...models.check import HashCache
from ...models.folders import ModelFolders, standalone
from ...settings import Settings
from ...workflows import manifest


@dataclass(frozen=True)
class Context:
    """The environment of one command; ``volume`` and ``comfyui`` are its options."""

    settings: Settings
    volume: Path | None = None
    comfyui: Path | None = None

    @property
    def options(self) -> str:
        """The place as it was given, for the next command."""
        place = f" --volume {self.volume}" if self.volume else ""
        return f"{place} --comfyui {self.comfyui}" if self.comfyui else place

    @cached_property
    def catalogue(self) -> Catalogue:
        return catalogues.load(self.settings.catalogue)

    @cached_property
    def workflows(self) -> dict[str, tuple[str, ...]]:
        """The catalogue ids that each workflow names."""
        return {name: manifest.load(name, self.settings).models for name in manifest.available(self.settings)}

    @cached_property
    def hashes(self) -> HashCache:
        return HashCache(self.settings.home / "hashes.sqlite")

    @cached_property
    def target(self) -> plan.Target:
        """Where to install: the option, else ``RYLA_VOLUME``, else the ComfyUI of this machine.

        Raises:
            RylaError: ``no_target``, ``not_a_comfyui``.
        """
        if self.volume is not None and self.comfyui is not None:
            raise RylaError("no_target", "Both --volume and --comfyui were given; a file goes to one place.")
        if self.volume is not None:
            return plan.volume_target(self.volume)
        if self.comfyui is None and self.settings.volume is not None:
            return plan.volume_target(self.settings.volume)
        return plan.comfyui_target(self.comfyui_folder)

    @cached_property
    def comfyui_folder(self) -> Path:
        """The ComfyUI: the option, else ``RYLA_COMFYUI``, else comfy-cli's workspace.

        Raises:
            RylaError: ``no_target``.
        """
        folder = self.comfyui or self.settings.comfyui or workspace.discover()
        if folder is None:
            raise RylaError("no_target", "Neither RYLA_VOLUME nor a ComfyUI was found on this machine.")
        return folder

    @cached_property
    def folders(self) -> ModelFolders:
        """Where to look: the option's place alone when one is given, else all that an engine of this machine sees."""
        if self.placed:
            return self.target.folders
        # The package's own come first: under the name of one, such as mira, the user may have a file of another kind.
        return standalone(self.settings).merged(shipped.folders(), first=True)

    @property
    def placed(self) -> bool:
        """Whether the command names a place."""
        return self.volume is not None or self.comfyui is not None

    @cached_property
    def elsewhere(self) -> ModelFolders:
        """Where files may lie that need no download: the ComfyUI, the volume, InsightFace's own folder, the package."""
        insightface = ModelFolders({"insightface": (Path.home() / ".insightface",)})
        return standalone(self.settings).merged(insightface).merged(shipped.folders(), first=True)


def context(volume: Path | None = None, comfyui: Path | None = None) -> Context:
    """The context of a command; paths are expanded."""

    def absolute(path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    return Context(env.load(), absolute(volume), absolute(comfyui))
