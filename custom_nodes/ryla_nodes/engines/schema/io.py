"""The stand-in for ComfyUI's ``comfy_api.latest.io``: same names, semantics and JSON as 0.3.64, torch-free.

Only what our nodes and the embedded engine use is here; a field that the floor version lacks fails here, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NoReturn, TypeVar, cast

from .sockets import (
    Boolean,
    Combo,
    ComfyType,
    Float,
    FolderType,
    Input,
    Int,
    NumberDisplay,
    Output,
    String,
    UploadType,
    WidgetInput,
)

__all__ = [
    "AnyType",
    "Boolean",
    "Clip",
    "Combo",
    "ComfyExtension",
    "ComfyNode",
    "ComfyType",
    "Conditioning",
    "ControlNet",
    "Custom",
    "Float",
    "FolderType",
    "Guider",
    "Hidden",
    "HiddenHolder",
    "Image",
    "Input",
    "Int",
    "Latent",
    "Mask",
    "Model",
    "NodeOutput",
    "Noise",
    "NumberDisplay",
    "Output",
    "Sampler",
    "Schema",
    "Sigmas",
    "String",
    "UploadType",
    "Vae",
    "WidgetInput",
]

Node = TypeVar("Node", bound="ComfyNode")


def Custom(io_type: str) -> type[ComfyType]:
    """A socket type of one's own, by name."""

    class CustomType(ComfyType, io_type=io_type):
        pass

    return CustomType


class Image(ComfyType, io_type="IMAGE"):
    """float32 tensor [B, H, W, C] in 0..1."""


class Mask(ComfyType, io_type="MASK"):
    """float32 tensor [B, H, W] in 0..1."""


class Latent(ComfyType, io_type="LATENT"):
    """Dict with ``samples`` [B, C, h, w] and an optional ``noise_mask``."""


class Conditioning(ComfyType, io_type="CONDITIONING"):
    """List of [tensor [B, tokens, width], dict]."""


class Model(ComfyType, io_type="MODEL"):
    """A diffusion model of the engine."""


class Clip(ComfyType, io_type="CLIP"):
    """Text encoders of the engine."""


class Vae(ComfyType, io_type="VAE"):
    """A VAE of the engine."""


class ControlNet(ComfyType, io_type="CONTROL_NET"):
    """A ControlNet of the engine."""


class Sampler(ComfyType, io_type="SAMPLER"):
    """A sampler."""


class Sigmas(ComfyType, io_type="SIGMAS"):
    """float32 tensor [steps + 1], falling."""


class Noise(ComfyType, io_type="NOISE"):
    """A noise generator."""


class Guider(ComfyType, io_type="GUIDER"):
    """A guider."""


class AnyType(ComfyType, io_type="*"):
    """A socket that takes everything."""


class Hidden(str, Enum):
    """What a node may ask to know beside its inputs; read as ``cls.hidden.<name>``."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"
    api_key_comfy_org = "API_KEY_COMFY_ORG"


class HiddenHolder:
    """The hidden values of one execution; those not asked for read as None."""

    def __init__(self, values: Mapping[Hidden, Any]) -> None:
        self._values = {key.name: value for key, value in values.items()}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__.get("_values", {}).get(name)


@dataclass
class Schema:
    """The declaration of a node; the fields of ComfyUI 0.3.64 and no others."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: Sequence[Input] | None = None
    outputs: Sequence[Output] | None = None
    hidden: list[Hidden] | None = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def validate(self) -> None:
        """Raise ValueError when an id of an input or output is used twice."""
        counts = Counter([i.id for i in self.inputs or ()] + [o.id for o in self.outputs or ()])
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(f"{self.node_id}: ids of inputs and outputs must be unique, but {repeated} are not.")

    def finalize(self) -> None:
        """Add the hidden values that every output node gets, and ids to outputs that have none."""
        if self.is_output_node:
            wanted = (Hidden.prompt, Hidden.extra_pnginfo)
            self.hidden = [*(self.hidden or ()), *(h for h in wanted if h not in (self.hidden or ()))]
        for index, output in enumerate(self.outputs or ()):
            if output.id is None:
                output.id = f"_{index}_{output.io_type}_"

    def input_types(self) -> dict[str, dict[str, tuple[Any, ...]]]:
        """``{"required": {id: (type, options)}, "optional": ..., "hidden": ...}``; the latter two only if not empty."""
        groups: dict[str, dict[str, tuple[Any, ...]]] = {"required": {}}
        for item in self.inputs or ():
            group = groups.setdefault("optional" if item.optional else "required", {})
            group[item.id] = (item.get_io_type(), item.as_dict())
        for hidden in self.hidden or ():
            groups.setdefault("hidden", {})[hidden.name] = (hidden.value,)
        return groups

    def get_v1_info(self, cls: type[ComfyNode]) -> dict[str, Any]:
        """This node's entry of ``/object_info``."""
        inputs = self.input_types()
        outputs = self.outputs or ()
        return {
            "input": inputs,
            "input_order": {group: list(items) for group, items in inputs.items()},
            "output": [o.io_type for o in outputs],
            "output_is_list": [o.is_output_list for o in outputs],
            "output_name": [o.display_name or o.io_type for o in outputs],
            "output_tooltips": [o.tooltip or None for o in outputs],
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": cls.RELATIVE_PYTHON_MODULE,
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "api_node": self.is_api_node,
        }


class NodeOutput:
    """What ``execute`` returns: a value per output; ``ui`` is stored in the history of an output node.

    ``block_execution`` (a message) stops every node downstream and is reported as their error; the values have to be
    given with it (ComfyUI ignores it otherwise).
    """

    def __init__(
        self,
        *args: Any,
        ui: Mapping[str, Any] | None = None,
        expand: Mapping[str, Any] | None = None,
        block_execution: str | None = None,
    ) -> None:
        if block_execution is not None and not args:
            raise ValueError("block_execution needs the output values, too: NodeOutput(None, block_execution=...).")
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self) -> tuple[Any, ...] | None:
        """The values, or None when there are none."""
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class _Locked(type):
    """The class that ``execute`` gets as ``cls``: nodes keep no state, so it cannot be written to."""

    def __setattr__(cls, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"Node {cls.__name__} may not set its class attribute {name!r}: nodes keep no state.")


class ComfyNode:
    """Base of every node. Subclasses define ``define_schema`` and ``execute`` as class methods."""

    RELATIVE_PYTHON_MODULE: ClassVar[str | None] = None
    hidden: ClassVar[HiddenHolder] = HiddenHolder({})
    # Declared, not annotated with their arguments: every node has arguments of its own.
    execute: ClassVar[Callable[..., Any]]
    validate_inputs: ClassVar[Callable[..., bool | str]]
    fingerprint_inputs: ClassVar[Callable[..., Any]]
    check_lazy_status: ClassVar[Callable[..., list[str]]]

    @classmethod
    def define_schema(cls) -> Schema:
        """The node's schema; called anew for each ``/object_info``, so that lists of files are fresh."""
        raise NotImplementedError

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The finished, checked schema."""
        for name in ("define_schema", "execute"):
            if name not in _own_names(cls):
                raise TypeError(f"No {name} function was defined for node class {cls.__name__}.")
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        """This node's entry of ``/object_info``."""
        return cls.GET_SCHEMA().get_v1_info(cls)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, ...]]]:
        """The inputs in ComfyUI's older form."""
        return cls.GET_SCHEMA().input_types()

    @classmethod
    def PREPARE_CLASS_CLONE(cls: type[Node], hidden_inputs: Mapping[Hidden, Any] | None) -> type[Node]:
        """A locked copy of the class for one execution, with its hidden values."""
        attributes = {"hidden": HiddenHolder(hidden_inputs or {})}
        return cast("type[Node]", _Locked(f"{cls.__name__}Clone", (cls,), attributes))


def _own_names(cls: type[ComfyNode]) -> set[str]:
    """Names defined below ``ComfyNode`` in the class hierarchy."""
    below = cls.__mro__[: cls.__mro__.index(ComfyNode)]
    return {name for base in below for name in vars(base)}


class ComfyExtension(ABC):
    """What a pack's ``comfy_entrypoint`` returns."""

    async def on_load(self) -> None:  # noqa: B027 - an optional hook, as in ComfyUI
        """Called once after loading (not by ComfyUI 0.3.64)."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """The node classes of the pack."""
