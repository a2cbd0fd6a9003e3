"""ComfyUI's constants: PrimitiveString, PrimitiveStringMultiline, PrimitiveInt, PrimitiveFloat, PrimitiveBoolean."""

from __future__ import annotations

import sys

from ...schema import io

MODULE = "comfy_extras.nodes_primitive"
CATEGORY = "utilities/primitive"


class PrimitiveString(io.ComfyNode):
    """A line of text."""

    RELATIVE_PYTHON_MODULE = MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveString",
            display_name="Text",
            category=CATEGORY,
            inputs=[io.String.Input("value")],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveStringMultiline(io.ComfyNode):
    """Lines of text."""

    RELATIVE_PYTHON_MODULE = MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveStringMultiline",
            display_name="Text (Multiline)",
            category=CATEGORY,
            inputs=[io.String.Input("value", multiline=True)],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveInt(io.ComfyNode):
    """A whole number."""

    RELATIVE_PYTHON_MODULE = MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveInt",
            display_name="Int",
            category=CATEGORY,
            inputs=[io.Int.Input("value", min=-sys.maxsize, max=sys.maxsize, control_after_generate=True)],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def execute(cls, value: int) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveFloat(io.ComfyNode):
    """A real number."""

    RELATIVE_PYTHON_MODULE = MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveFloat",
            display_name="Float",
            category=CATEGORY,
            inputs=[io.Float.Input("value", min=-sys.maxsize, max=sys.maxsize)],
            outputs=[io.Float.Output()],
        )

    @classmethod
    def execute(cls, value: float) -> io.NodeOutput:
        return io.NodeOutput(value)


class PrimitiveBoolean(io.ComfyNode):
    """A switch."""

    RELATIVE_PYTHON_MODULE = MODULE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PrimitiveBoolean",
            display_name="Boolean",
            category=CATEGORY,
            inputs=[io.Boolean.Input("value")],
            outputs=[io.Boolean.Output()],
        )

    @classmethod
    def execute(cls, value: bool) -> io.NodeOutput:
        return io.NodeOutput(value)
