"""ComfyUI's nodes for texts: StringConcatenate."""

from __future__ import annotations

from ...schema import io

MODULE = "comfy_extras.nodes_string"


class StringConcatenate(io.ComfyNode):
    """Two texts as one."""

    RELATIVE_PYTHON_MODULE = MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StringConcatenate",
            display_name="Concatenate Text",
            category="text",
            inputs=[
                io.String.Input("string_a", multiline=True),
                io.String.Input("string_b", multiline=True),
                io.String.Input("delimiter", multiline=False, default=""),
            ],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, string_a: str, string_b: str, delimiter: str) -> io.NodeOutput:
        return io.NodeOutput(delimiter.join((string_a, string_b)))
