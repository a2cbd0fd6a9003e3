"""What ComfyUI gets from this pack: the model folders it adds and the nodes it brings."""

from __future__ import annotations

from . import commands, settings
from .engines.comfyui import folders, preflight, routes
from .engines.comfyui.engine import ComfyUIEngine
from .engines.protocol import set_process_engine
from .engines.schema import ComfyExtension, io
from .nodes import node_classes
from .workflows import prefetch


class RylaExtension(ComfyExtension):
    """The pack, as ComfyUI's loader sees it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return node_classes()


def load() -> RylaExtension:
    """Add the volume's folders to ComfyUI's and our routes to its server, and hand over the nodes."""
    set_process_engine(ComfyUIEngine())
    volume = settings.load().volume
    folders.register(volume)
    commands.speak(preflight.scripts(volume))
    routes.register()
    prefetch.ready(volume)
    return RylaExtension()
