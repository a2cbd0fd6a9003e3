"""Routes about the engine: /object_info, /system_stats, /features, /models, /embeddings."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from aiohttp import web

from ....models.folders import ModelFolders
from ....version import version
from ..execution.registry import Registry
from .events import FEATURES
from .messages import MAX_UPLOAD_BYTES, json_answer

# The ComfyUI whose API this engine speaks; the local part says that it is none.
API_LEVEL = "0.33.0"
COMFYUI_VERSION = f"{API_LEVEL}+ryla.embedded"


class InfoRoutes:
    """What the engine is and has."""

    def __init__(self, registry: Registry, folders: Callable[[], ModelFolders]) -> None:
        self._registry = registry
        self._folders = folders
        self._features = {**FEATURES, "max_upload_size": MAX_UPLOAD_BYTES}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.get_root),
            web.get("/object_info", self.get_object_info),
            web.get("/object_info/{node_class}", self.get_node_info),
            web.get("/system_stats", self.get_system_stats),
            web.get("/features", self.get_features),
            web.get("/embeddings", self.get_embeddings),
            web.get("/models", self.get_models),
            web.get("/models/{folder}", self.get_model_files),
        ]

    async def get_root(self, request: web.Request) -> web.Response:
        return web.Response(text="RYLA embedded engine: ComfyUI's HTTP API, without the editor.\n")

    async def get_object_info(self, request: web.Request) -> web.Response:
        return json_answer(
            await asyncio.to_thread(lambda: {name: self._registry.info(name) for name in self._registry})
        )

    async def get_node_info(self, request: web.Request) -> web.Response:
        name = request.match_info["node_class"]
        if name not in self._registry:
            return json_answer({})
        return json_answer({name: await asyncio.to_thread(self._registry.info, name)})

    async def get_system_stats(self, request: web.Request) -> web.Response:
        return json_answer(await asyncio.to_thread(system_stats))

    async def get_features(self, request: web.Request) -> web.Response:
        return json_answer(self._features)

    async def get_embeddings(self, request: web.Request) -> web.Response:
        folders = await asyncio.to_thread(self._folders)
        names = [str(PurePosixPath(name).with_suffix("")) for name in folders.list("embeddings")]
        return json_answer(names)

    async def get_models(self, request: web.Request) -> web.Response:
        return json_answer(list((await asyncio.to_thread(self._folders)).paths))

    async def get_model_files(self, request: web.Request) -> web.Response:
        folders = await asyncio.to_thread(self._folders)
        folder = request.match_info["folder"]
        if not folders.get(folder):
            raise web.HTTPNotFound
        return json_answer(await asyncio.to_thread(folders.list, folder))


def system_stats() -> dict[str, Any]:
    """Versions, memory and devices; torch is not loaded for it."""
    import psutil  # type: ignore[import-untyped]

    memory = psutil.virtual_memory()
    system = {
        "os": sys.platform,
        "ram_total": memory.total,
        "ram_free": memory.available,
        "comfyui_version": COMFYUI_VERSION,
        "python_version": sys.version,
        "pytorch_version": _version("torch"),
        "embedded_python": False,
        "argv": [],
        "engine": {"name": "ryla-embedded", "version": version(), "api": API_LEVEL},
    }
    return {"system": system, "devices": [_device(memory.total, memory.available)]}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(ram_total: int, ram_free: int) -> dict[str, Any]:
    """The GPU once torch runs on one, else the CPU with the machine's memory."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        name = platform.processor() or platform.machine()
        sizes = dict.fromkeys(("vram_total", "torch_vram_total"), ram_total)
        sizes |= dict.fromkeys(("vram_free", "torch_vram_free"), ram_free)
        return {"name": name, "type": "cpu", "index": None, **sizes}
    free, total = torch.cuda.mem_get_info()
    reserved = torch.cuda.memory_reserved()
    return {
        "name": torch.cuda.get_device_name(),
        "type": "cuda",
        "index": torch.cuda.current_device(),
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": reserved,
        "torch_vram_free": reserved - torch.cuda.memory_allocated(),
    }
