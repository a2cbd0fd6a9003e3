"""A clone of this repository in ComfyUI's custom_nodes is itself the node pack, which lives two levels down."""

from importlib.util import find_spec

# pytest imports a root package, too; a missing ComfyUI is told apart from a broken import in the pack.
if find_spec("comfy_api") is not None:
    from .custom_nodes.ryla_nodes import comfy_entrypoint

    WEB_DIRECTORY = "custom_nodes/ryla_nodes/web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
