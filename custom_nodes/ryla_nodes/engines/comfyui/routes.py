"""What our extension of the editor asks ComfyUI's server for: the LoRAs to choose from, and their sample pictures."""

from __future__ import annotations

import sys
from typing import Any

from ... import settings
from ..protocol import current_engine

_KEEP = "private, max-age=86400"  # A picture's address changes with the picture.


def register() -> None:
    """Add the routes to the server of this process; without one, as in ComfyUI's own tests, there is nothing to do."""
    server: Any = sys.modules.get("server")
    prompt_server = getattr(getattr(server, "PromptServer", None), "instance", None)
    if prompt_server is None:
        return
    import asyncio

    web, routes = server.web, prompt_server.routes

    @routes.get("/ryla/loras")  # type: ignore[untyped-decorator]
    async def loras(request: Any) -> Any:
        return web.json_response({"loras": await asyncio.to_thread(_every)})

    @routes.post("/ryla/loras/details")  # type: ignore[untyped-decorator]
    async def details(request: Any) -> Any:
        asked = await request.json()
        ids = asked.get("ids") if isinstance(asked, dict) else None
        if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
            return web.json_response({"error": 'Wanted: {"ids": ["anna", ...]}.'}, status=400)
        return web.json_response({"loras": await asyncio.to_thread(_details, ids)})

    @routes.get("/ryla/loras/picture")  # type: ignore[untyped-decorator]
    async def picture(request: Any) -> Any:
        data = await asyncio.to_thread(_thumbnail, request.query.get("id", ""))
        if data is None:
            return web.Response(status=404)
        return web.Response(body=data, content_type="image/webp", headers={"Cache-Control": _KEEP})


def _store() -> Any:
    from ...loras import store

    return store.of_engine(current_engine().folders(), settings.load())


def _every() -> list[dict[str, str]]:
    from ...loras import choices

    return choices.every(_store())


def _details(ids: list[str]) -> dict[str, dict[str, Any]]:
    from ...loras import choices

    return choices.details(_store(), ids[: choices.MOST_DETAILS])


def _thumbnail(lora_id: str) -> bytes | None:
    from ...loras import choices

    return choices.thumbnail(_store(), lora_id)
