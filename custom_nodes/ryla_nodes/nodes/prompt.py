"""The prompt with the character's trigger word in it."""

from __future__ import annotations

from typing import ClassVar

from ..engines.schema import io
from ..loras.prompt import add_trigger


class Prompt(io.ComfyNode):
    """Text in, text with the trigger word out."""

    HAS_INTERMEDIATE_OUTPUT: ClassVar[bool] = True  # The history tells the prompt of a repeated job, too.

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RYLA_Prompt",
            display_name="Prompt with Trigger Word",
            category="RYLA/prompt",
            description="Puts the trigger word once in front of the prompt, with a comma, unless it is already there.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="The prompt. A trigger word that is in it already (whole word, any case) is not added.",
                ),
                io.String.Input(
                    "trigger",
                    optional=True,
                    default="",
                    tooltip="The trigger word, usually linked from Character LoRA. Empty: the prompt stays as it is.",
                ),
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="The prompt to encode.")],
        )

    @classmethod
    def execute(cls, text: str, trigger: str = "") -> io.NodeOutput:
        prompt = add_trigger(text, trigger)
        return io.NodeOutput(prompt, ui={"text": [prompt]})
