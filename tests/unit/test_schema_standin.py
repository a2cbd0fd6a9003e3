"""The stand-in of ComfyUI's schema API. That its JSON is ComfyUI's is tested against a real one (tests/comfyui)."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from ryla_nodes.engines.schema import ComfyExtension, io


class Blend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Blend",
            inputs=[io.Image.Input("image"), io.Float.Input("amount", default=0.5, min=0, max=1, optional=True)],
            outputs=[io.Image.Output(), io.Mask.Output(display_name="mask")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: Any, amount: float = 0.5) -> io.NodeOutput:
        return io.NodeOutput(image, cls.hidden.prompt)


def test_an_output_node_may_see_the_prompt() -> None:
    assert Blend.INPUT_TYPES()["hidden"] == {"prompt": ("PROMPT",), "extra_pnginfo": ("EXTRA_PNGINFO",)}
    clone = Blend.PREPARE_CLASS_CLONE({io.Hidden.prompt: {"1": {}}})
    assert clone.execute(5).args == (5, {"1": {}})
    assert clone.hidden.extra_pnginfo is None and clone.hidden.whatever is None
    assert Blend.hidden.prompt is None


def test_a_node_cannot_keep_state_in_its_class() -> None:
    clone = Blend.PREPARE_CLASS_CLONE(None)
    with pytest.raises(AttributeError, match="'count'"):
        clone.count = 1  # type: ignore[attr-defined]


def test_inputs_and_outputs_are_grouped_and_named() -> None:
    info = Blend.GET_NODE_INFO_V1()
    assert info["input_order"]["required"] == ["image"] and info["input_order"]["optional"] == ["amount"]
    assert info["input"]["optional"]["amount"] == ("FLOAT", {"default": 0.5, "min": 0, "max": 1})
    assert info["output_name"] == ["IMAGE", "mask"]
    assert [output.id for output in Blend.GET_SCHEMA().outputs or ()] == ["_0_IMAGE_", "_1_MASK_"]


def test_the_schema_is_made_anew_each_time() -> None:
    files = ["a"]

    class Files(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema("Files", inputs=[io.Combo.Input("file", options=files)])

        @classmethod
        def execute(cls, file: str) -> io.NodeOutput:
            return io.NodeOutput()

    assert Files.INPUT_TYPES()["required"]["file"][1]["options"] == ["a"]
    files.append("b")
    assert Files.INPUT_TYPES()["required"]["file"][1]["options"] == ["a", "b"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: io.Schema("X", search_aliases=["y"]),  # type: ignore[call-arg]
        lambda: io.Int.Input("x", advanced=True),  # type: ignore[call-arg]
        lambda: io.MatchType,  # type: ignore[attr-defined]
    ],
)
def test_what_the_floor_version_lacks_fails(make: Callable[[], object]) -> None:
    with pytest.raises((TypeError, AttributeError)):
        make()


def test_the_schema_has_the_floor_versions_fields_in_its_order() -> None:
    assert [field.name for field in dataclasses.fields(io.Schema)] == [
        "node_id", "display_name", "category", "inputs", "outputs", "hidden", "description", "is_input_list",
        "is_output_node", "is_deprecated", "is_experimental", "is_api_node", "not_idempotent", "enable_expand",
    ]  # fmt: skip


def test_an_id_used_twice_is_refused() -> None:
    for schema in (
        io.Schema("X", inputs=[io.Int.Input("a"), io.Int.Input("a")]),
        io.Schema("X", inputs=[io.Int.Input("a")], outputs=[io.Int.Output("a")]),
    ):
        with pytest.raises(ValueError, match="'a'"):
            schema.validate()


def test_a_class_without_its_methods_is_refused() -> None:
    class Unfinished(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema("Unfinished")

    with pytest.raises(TypeError, match="execute"):
        Unfinished.GET_SCHEMA()


def test_blocking_needs_the_values_too() -> None:
    """ComfyUI ignores ``block_execution`` without values, and passes None on."""
    assert io.NodeOutput(None, block_execution="no").block_execution == "no"
    with pytest.raises(ValueError, match="values"):
        io.NodeOutput(block_execution="no")


def test_custom_types_and_choices() -> None:
    class Size(Enum):
        small = "S"
        large = "L"

    face = io.Custom("RYLA_FACE")
    assert face.Input("face").get_io_type() == "RYLA_FACE" == face.Output().io_type
    combo = io.Combo.Input("size", options=Size, default=Size.large)
    assert combo.as_dict() == {"default": "L", "multiselect": False, "options": ["S", "L"]}
    assert io.Combo.Output(options=["S"]).io_type == ["S"]


def test_a_pack_lists_its_nodes() -> None:
    class Pack(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return [Blend]

    coroutine = Pack().get_node_list()
    with pytest.raises(StopIteration) as returned:
        coroutine.send(None)
    assert returned.value.value == [Blend]
    with pytest.raises(TypeError):
        ComfyExtension()  # type: ignore[abstract]


def test_inside_comfyui_the_real_one_is_used() -> None:
    script = """
import sys, types
api = types.ModuleType("comfy_api.latest")
api.io, api.ComfyExtension = object(), object()
sys.modules |= dict.fromkeys(("folder_paths", "comfy_api"), types.ModuleType("stub"))
sys.modules["comfy_api.latest"] = api
from ryla_nodes.engines import schema
assert schema.io is api.io and schema.ComfyExtension is api.ComfyExtension
assert "ryla_nodes.engines.schema.io" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_it_is_light() -> None:
    script = (
        "import sys, ryla_nodes.engines.schema, ryla_nodes.engines.embedded;"
        "print([name for name in ('torch', 'PIL', 'numpy', 'aiohttp') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.strip() == "[]"
