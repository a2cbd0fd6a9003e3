"""ComfyUI's ControlNetLoader and DifferentialDiffusion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....errors import RylaError
from ...protocol import current_engine
from ...schema import io


class ControlNetLoader(io.ComfyNode):
    """An SDXL ControlNet in diffusers' format."""

    RELATIVE_PYTHON_MODULE = "nodes"

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = current_engine().folders().list("controlnet")
        return io.Schema(
            node_id="ControlNetLoader",
            display_name="Load ControlNet Model",
            category="loaders",
            inputs=[io.Combo.Input("control_net_name", options=names)],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        path = current_engine().folders().find("controlnet", control_net_name)
        if path is None:
            raise RylaError("missing_model", f"No controlnet folder holds {control_net_name}.")
        return io.NodeOutput(current_engine().load_control_net(path))


class DifferentialDiffusion(io.ComfyNode):
    """Sample each pixel for as long as its mask is bright."""

    RELATIVE_PYTHON_MODULE = "comfy_extras.nodes_differential_diffusion"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DifferentialDiffusion",
            display_name="Differential Diffusion",
            category="_for_testing",
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, optional=True),
            ],
            outputs=[io.Model.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, model: Any, strength: float = 1.0) -> io.NodeOutput:
        from ..inference.sdxl_model import differential

        return io.NodeOutput(replace(model, mask_function=differential(model.sampling, strength)))


NODES: tuple[type[io.ComfyNode], ...] = (ControlNetLoader, DifferentialDiffusion)
