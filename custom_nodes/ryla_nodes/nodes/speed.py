"""Run FLUX.1 faster: compiled blocks, and on newer GPUs matrices in 8 bits."""

from __future__ import annotations

from typing import Any, ClassVar

from ..engines.protocol import SPEED_MODES, SpeedMode, current_engine
from ..engines.schema import io


class FluxSpeed(io.ComfyNode):
    """Model in, faster model out; where a mode cannot be had, the model as it is and a line that says why."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the report of a kept result, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_FluxSpeed",
            display_name="FLUX Speed",
            category="RYLA/loaders",
            description="Runs FLUX.1 faster on NVIDIA GPUs. Goes between the LoRA and the sampler. The first picture "
            "of a mode waits for its compilation.",
            inputs=[
                io.Model.Input("model", tooltip="A FLUX.1 model, with its LoRA."),
                io.Combo.Input(
                    "mode",
                    options=list(SPEED_MODES),
                    default=SPEED_MODES[0],
                    tooltip="off: as it is. exact: the same mathematics, compiled. fast: matrices in 8 bits as well, "
                    "which changes the picture a little.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The model to sample with.")],
        )

    @classmethod
    def execute(cls, model: Any, mode: SpeedMode) -> io.NodeOutput:
        faster, report = current_engine().accelerate(model, mode)
        return io.NodeOutput(faster) if mode == "off" else io.NodeOutput(faster, ui={"text": [report]})
