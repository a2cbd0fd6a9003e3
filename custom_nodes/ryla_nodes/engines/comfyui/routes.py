"""What our extension of the editor asks ComfyUI's server for: what a graph lacks, opened or run, and the LoRAs."""

from __future__ import annotations

import sys
from typing import Any

from ... import settings
from ..protocol import current_engine
from . import preflight

_KEEP = "private, max-age=86400"  # A picture's address changes with the picture.


def register() -> None:
    """Add the routes, and what is done to a submitted job, to the server of this process.

    Without one, as in ComfyUI's own tests, there is nothing to do.
    """
    server: Any = sys.modules.get("server")
    prompt_server = getattr(getattr(server, "PromptServer", None), "instance", None)
    if prompt_server is None:
        return
    import asyncio

    prompt_server.add_on_prompt_handler(_saved_first)
    web, routes = server.web, prompt_server.routes

    @routes.post("/ryla/missing")  # type: ignore[untyped-decorator]
    async def missing(request: Any) -> Any:
        asked = await _json(request)
        prompt, targets = asked.get("prompt"), asked.get("partial_execution_targets")
        if not isinstance(prompt, dict) or not all(isinstance(node, dict) for node in prompt.values()):
            return web.json_response(
                {"error": 'Wanted: {"prompt": {"1": {"class_type": ..., "inputs": ...}}}.'}, status=400
            )
        return web.json_response(await preflight.report(prompt, targets if isinstance(targets, list) else None))

    @routes.post("/ryla/models")  # type: ignore[untyped-decorator]
    async def models(request: Any) -> Any:
        from . import opening

        asked = await _json(request)
        nodes, listed = (_objects(asked.get(name)) for name in ("nodes", "models"))
        if nodes is None or listed is None:
            return web.json_response(
                {"error": 'Wanted: {"nodes": [{"type": ..., "values": [...]}], "models": [{"name": ...}]}.'}, status=400
            )
        return web.json_response(await asyncio.to_thread(opening.report, nodes, listed))

    @routes.get("/ryla/loras")  # type: ignore[untyped-decorator]
    async def loras(request: Any) -> Any:
        return web.json_response({"loras": await asyncio.to_thread(_every)})

    @routes.post("/ryla/loras/details")  # type: ignore[untyped-decorator]
    async def details(request: Any) -> Any:
        ids = (await _json(request)).get("ids")
        if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
            return web.json_response({"error": 'Wanted: {"ids": ["anna", ...]}.'}, status=400)
        return web.json_response({"loras": await asyncio.to_thread(_details, ids)})

    @routes.get("/ryla/loras/picture")  # type: ignore[untyped-decorator]
    async def picture(request: Any) -> Any:
        data = await asyncio.to_thread(_thumbnail, request.query.get("id", ""))
        if data is None:
            return web.Response(status=404)
        return web.Response(body=data, content_type="image/webp", headers={"Cache-Control": _KEEP})


def _saved_first(submitted: dict[str, Any]) -> dict[str, Any]:
    """A job as it was submitted, with pictures saved before they are scored; what it will need is begun."""
    from ...workflows.save_first import save_first

    if "prompt" not in submitted:
        return submitted
    targets = submitted.get("partial_execution_targets")
    prompt = save_first(submitted["prompt"], targets if isinstance(targets, list) else None)
    current_engine().expect(prompt)
    return {**submitted, "prompt": prompt}


async def _json(request: Any) -> dict[str, Any]:
    """The body's object; an empty one for anything else."""
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]] | None:
    """A list of objects; None for anything else."""
    return value if isinstance(value, list) and all(isinstance(each, dict) for each in value) else None


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
