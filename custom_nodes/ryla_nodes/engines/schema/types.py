"""Sockets of the schema stand-in: inputs, outputs and the types without a widget (names and JSON of ComfyUI 0.3.64)."""

# ruff: noqa: A002 - argument names are ComfyUI's

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias


def present(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` without those that were left unset."""
    return {name: value for name, value in options.items() if value is not None}


class Input:
    """A socket or widget of a node. ``optional`` inputs may be missing from a graph."""

    io_type: ClassVar[str] = "*"

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        extra_dict: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.optional = optional
        self.tooltip = tooltip
        self.lazy = lazy
        self.extra_dict = dict(extra_dict or {})

    def as_dict(self) -> dict[str, Any]:
        """The options of this input as they stand in ``/object_info``."""
        shown = {"display_name": self.display_name, "tooltip": self.tooltip, "lazy": self.lazy}
        return present(shown) | present(self.extra_dict)

    def get_io_type(self) -> str:
        """The socket type, or the widget type that overrides it."""
        return self.io_type


class WidgetInput(Input):
    """An input that the editor shows as a widget."""

    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        socketless: bool | None = None,
        widget_type: str | None = None,
        force_input: bool | None = None,
        extra_dict: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(id, display_name, optional, tooltip, lazy, extra_dict)
        self.default = default
        self.socketless = socketless
        self.widget_type = widget_type
        self.force_input = force_input

    def as_dict(self) -> dict[str, Any]:
        shown = {
            "default": self.default,
            "socketless": self.socketless,
            "widgetType": self.widget_type,
            "forceInput": self.force_input,
        }
        return super().as_dict() | present(shown)

    def get_io_type(self) -> str:
        return self.widget_type or super().get_io_type()


class Output:
    """An output socket of a node. Without an id it gets one from its position and type."""

    io_type: Any = "*"

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.tooltip = tooltip
        self.is_output_list = is_output_list


class ComfyType:
    """A socket type. ``X.Input(...)`` and ``X.Output(...)`` declare sockets of it; ``X.Type`` is its Python type."""

    io_type: ClassVar[str] = "*"
    Type: TypeAlias = Any
    Input = Input
    Output = Output

    def __init_subclass__(cls, io_type: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if io_type is None:
            return
        cls.io_type = io_type
        for socket in ("Input", "Output"):
            base = getattr(cls, socket)
            # A property (Combo's output type is its list of options) is not overridden.
            own = {} if isinstance(getattr(base, "io_type", None), property) else {"io_type": io_type}
            setattr(cls, socket, type(socket, (base,), own))


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
