"""Nodes for the parity tests: the same source runs in a real ComfyUI and in the embedded engine."""

import sys
import time
from enum import Enum

if "folder_paths" in sys.modules:
    from comfy_api.latest import ComfyExtension, io
else:
    from ryla_nodes.engines.schema import ComfyExtension, io


class Fruit(Enum):
    apple = "apple"
    pear = "pear"


class Everything(io.ComfyNode):
    """Every input and option that the stand-in has."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Everything",
            display_name="Everything",
            category="RYLA/test",
            description="All kinds of inputs.",
            inputs=[
                io.Image.Input("image", display_name="Picture", tooltip="A picture."),
                io.Int.Input(
                    "count", default=3, min=1, max=9, step=2, control_after_generate=True, tooltip="How many."
                ),
                io.Int.Input("slider", default=1, min=0, max=5, display_mode=io.NumberDisplay.slider),
                io.Float.Input("ratio", default=0.5, min=0.0, max=1.0, step=0.1, round=0.01),
                io.Float.Input("number", default=2.0, display_mode=io.NumberDisplay.number, force_input=True),
                io.String.Input("text", multiline=True, placeholder="write", default="x", dynamic_prompts=True),
                io.String.Input("line"),
                io.Boolean.Input("switch", default=True, label_on="yes", label_off="no", socketless=True),
                io.Combo.Input("fruit", options=Fruit, default=Fruit.pear),
                io.Combo.Input(
                    "file", options=["a", "b"], upload=io.UploadType.image, image_folder=io.FolderType.output
                ),
                io.Custom("RYLA_TEST").Input("custom", extra_dict={"hint": "anything", "unset": None}),
                io.AnyType.Input("any", optional=True, lazy=True),
                io.Model.Input("model", optional=True),
                io.Clip.Input("clip", optional=True),
                io.Vae.Input("vae", optional=True),
                io.Mask.Input("mask", optional=True),
                io.Latent.Input("latent", optional=True),
                io.Conditioning.Input("conditioning", optional=True),
                io.ControlNet.Input("control_net", optional=True),
                io.Sampler.Input("sampler", optional=True),
                io.Sigmas.Input("sigmas", optional=True),
                io.Noise.Input("noise", optional=True),
                io.Guider.Input("guider", optional=True),
            ],
            outputs=[
                io.Image.Output(display_name="picture", tooltip="The same."),
                io.Custom("RYLA_TEST").Output(),
                io.Int.Output("counts", is_output_list=True),
                io.Combo.Output(display_name="fruit", options=["apple", "pear"]),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_experimental=True,
            is_deprecated=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, **kwargs):
        return io.NodeOutput(None, None, [1], "apple")


class Bare(io.ComfyNode):
    """As little as a node can be."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="RylaTest_Bare")

    @classmethod
    def execute(cls):
        return io.NodeOutput()


class Text(io.ComfyNode):
    """A text; counts how often it ran in this process."""

    runs = []

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Text",
            inputs=[io.String.Input("text", default=""), io.Int.Input("fail", default=0, min=0, max=9, optional=True)],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, text, fail=0):
        cls.runs.append(text)
        if fail == 1:
            raise ValueError(f"no {text}")
        if fail == 2:
            return io.NodeOutput(None, block_execution=f"blocked {text}")
        if fail == 3:
            cls.state = text
        return io.NodeOutput(text)


class Texts(io.ComfyNode):
    """A list of values on one output."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Texts",
            inputs=[io.String.Input("text"), io.Int.Input("count", default=2, min=0, max=5)],
            outputs=[io.String.Output(is_output_list=True), io.Int.Output()],
        )

    @classmethod
    def execute(cls, text, count):
        return io.NodeOutput([f"{text}{i}" for i in range(count)], count)


class Join(io.ComfyNode):
    """Takes whole lists."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Join",
            inputs=[io.String.Input("texts", force_input=True), io.String.Input("glue", default="+")],
            outputs=[io.String.Output()],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, texts, glue):
        return io.NodeOutput(glue[0].join(texts))


class Show(io.ComfyNode):
    """Reports what it got."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Show",
            inputs=[
                io.AnyType.Input("value"),
                io.AnyType.Input("other", optional=True),
                io.String.Input("note", optional=True),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value, other=None, note="default"):
        extra = sorted((cls.hidden.extra_pnginfo or {}).items())
        classes = sorted(node["class_type"] for node in cls.hidden.prompt.values())
        seen = {"id": cls.hidden.unique_id, "extra": extra, "classes": classes, "token": cls.hidden.api_key_comfy_org}
        return io.NodeOutput(ui={"values": [value, other, note], "hidden": [seen]})


class Choose(io.ComfyNode):
    """Asks for one of two lazy inputs."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Choose",
            inputs=[
                io.Boolean.Input("first", default=True),
                io.String.Input("a", lazy=True),
                io.String.Input("b", lazy=True, optional=True),
            ],
            outputs=[io.String.Output()],
        )

    @classmethod
    def check_lazy_status(cls, first, a, b=None):
        return ["a"] if first and a is None else ["b"] if not first and b is None else []

    @classmethod
    def execute(cls, first, a, b=None):
        return io.NodeOutput(f"{a}|{b}")


class Checked(io.ComfyNode):
    """Checks an input itself, so that the engine does not, and a list that the engine checks."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Checked",
            inputs=[
                io.Int.Input("even", default=0, min=0, max=10),
                io.Int.Input("small", default=0, min=0, max=10),
                io.Combo.Input("word", options=["a", "b"]),
                io.Combo.Input("many", options=[str(i) for i in range(30)]),
            ],
            outputs=[io.Int.Output()],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, even, word):
        if even == 13:
            raise LookupError("unlucky")
        if word == "refuse":
            return False
        return True if even % 2 == 0 else f"{even} is odd"

    @classmethod
    def execute(cls, even, small, word, many):
        return io.NodeOutput(even, ui={"word": [word]})


class Printed(io.ComfyNode):
    """Its fingerprint is its text without what follows #; a text of "nan" always runs."""

    runs = []

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Printed",
            inputs=[io.String.Input("text"), io.String.Input("linked", optional=True)],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, text, linked=None):
        return float("nan") if text == "nan" else text.split("#")[0]

    @classmethod
    def execute(cls, text, linked=None):
        cls.runs.append(text)
        return io.NodeOutput(cls.runs.count(text))


class Slow(io.ComfyNode):
    """Takes its time, in steps, and can be cancelled between them."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RylaTest_Slow",
            inputs=[io.Int.Input("steps", default=3, min=1, max=10000), io.String.Input("text", default="done")],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, steps, text):
        bar = progress_bar(steps)
        for _ in range(steps):
            time.sleep(0.01)
            bar.update(1)
        return io.NodeOutput(text)


class Numbers(io.ComfyNode):
    """Reports the shape of a tensor and a few of its values."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="RylaTest_Numbers", inputs=[io.AnyType.Input("tensor")], is_output_node=True)

    @classmethod
    def execute(cls, tensor):
        values = [round(float(value), 3) for value in tensor.flatten()[::7]]
        return io.NodeOutput(ui={"shape": list(tensor.shape), "values": values})


def progress_bar(total):
    if "folder_paths" in sys.modules:
        from comfy.utils import ProgressBar
    else:
        from ryla_nodes.engines.embedded.execution.calls import ProgressBar
    return ProgressBar(total)


NODES = (Everything, Bare, Text, Texts, Join, Show, Choose, Checked, Printed, Slow, Numbers)


class Extension(ComfyExtension):
    async def get_node_list(self):
        return list(NODES)


async def comfy_entrypoint():
    return Extension()
