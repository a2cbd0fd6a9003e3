"""Test-only pack: GET /ryla_test/folders says which model folders and extensions this ComfyUI has."""

import folder_paths
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


@PromptServer.instance.routes.get("/ryla_test/folders")
async def folders(_request):
    known = folder_paths.folder_names_and_paths
    return web.json_response({kind: [list(paths), sorted(extensions)] for kind, (paths, extensions) in known.items()})
