"""Sockets and widgets of the schema stand-in (names and JSON of ComfyUI 0.3.64)."""

# ruff: noqa: A002 - argument names are ComfyUI's

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
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


class FolderType(str, Enum):
    """A folder of files of the engine."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """The upload button of a combo; the value is the option's name in the node's JSON."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):
    """How the editor shows a number."""

    number = "number"
    slider = "slider"


class Boolean(ComfyType, io_type="BOOLEAN"):
    """A switch."""

    Type: TypeAlias = bool

    class Input(WidgetInput):
        """A switch widget; the labels name its two positions."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: bool | None = None,
            label_on: str | None = None,
            label_off: str | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default, socketless, force_input=force_input)
            self.label_on = label_on
            self.label_off = label_off

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | present({"label_on": self.label_on, "label_off": self.label_off})


class Int(ComfyType, io_type="INT"):
    """A whole number."""

    Type: TypeAlias = int

    class Input(WidgetInput):
        """A number widget; the range is checked by the engine, the step only by the editor."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: int | None = None,
            min: int | None = None,
            max: int | None = None,
            step: int | None = None,
            control_after_generate: bool | None = None,
            display_mode: NumberDisplay | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default, socketless, force_input=force_input)
            self.min = min
            self.max = max
            self.step = step
            self.control_after_generate = control_after_generate
            self.display_mode = display_mode

        def as_dict(self) -> dict[str, Any]:
            shown = {
                "min": self.min,
                "max": self.max,
                "step": self.step,
                "control_after_generate": self.control_after_generate,
                "display": self.display_mode.value if self.display_mode else None,
            }
            return super().as_dict() | present(shown)


class Float(ComfyType, io_type="FLOAT"):
    """A real number."""

    Type: TypeAlias = float

    class Input(WidgetInput):
        """A number widget; the range is checked by the engine, step and rounding only by the editor."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: float | None = None,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
            round: float | None = None,
            display_mode: NumberDisplay | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default, socketless, force_input=force_input)
            self.min = min
            self.max = max
            self.step = step
            self.round = round
            self.display_mode = display_mode

        def as_dict(self) -> dict[str, Any]:
            shown = {
                "min": self.min,
                "max": self.max,
                "step": self.step,
                "round": self.round,
                "display": self.display_mode.value if self.display_mode else None,
            }
            return super().as_dict() | present(shown)


class String(ComfyType, io_type="STRING"):
    """Text."""

    Type: TypeAlias = str

    class Input(WidgetInput):
        """A text widget, of one or of several lines."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            multiline: bool = False,
            placeholder: str | None = None,
            default: str | None = None,
            dynamic_prompts: bool | None = None,
            socketless: bool | None = None,
            force_input: bool | None = None,
        ) -> None:
            super().__init__(id, display_name, optional, tooltip, lazy, default, socketless, force_input=force_input)
            self.multiline = multiline
            self.placeholder = placeholder
            self.dynamic_prompts = dynamic_prompts

        def as_dict(self) -> dict[str, Any]:
            shown = {
                "multiline": self.multiline,
                "placeholder": self.placeholder,
                "dynamicPrompts": self.dynamic_prompts,
            }
            return super().as_dict() | present(shown)


class Combo(ComfyType, io_type="COMBO"):
    """One of a list of values."""

    Type: TypeAlias = str

    class Input(WidgetInput):
        """A drop-down of ``options`` (values, or the values of an Enum class)."""

        def __init__(
            self,
            id: str,
            options: Sequence[str] | Sequence[int] | type[Enum] | None = None,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: str | int | Enum | None = None,
            control_after_generate: bool | None = None,
            upload: UploadType | None = None,
            image_folder: FolderType | None = None,
            remote: None = None,
            socketless: bool | None = None,
        ) -> None:
            chosen = default.value if isinstance(default, Enum) else default
            super().__init__(id, display_name, optional, tooltip, lazy, chosen, socketless)
            values = [member.value for member in options] if isinstance(options, type) else options
            self.options = None if values is None else list(values)
            self.control_after_generate = control_after_generate
            self.upload = upload
            self.image_folder = image_folder

        def as_dict(self) -> dict[str, Any]:
            shown = {
                "multiselect": False,
                "options": self.options,
                "control_after_generate": self.control_after_generate,
                "image_folder": self.image_folder.value if self.image_folder else None,
            }
            upload = {self.upload.value: True} if self.upload else {}
            return super().as_dict() | present(shown) | upload

    class Output(Output):
        """A combo output: its type in the JSON is the list of options."""

        def __init__(
            self,
            id: str | None = None,
            display_name: str | None = None,
            options: Sequence[str] | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ) -> None:
            super().__init__(id, display_name, tooltip, is_output_list)
            self.options = list(options or [])

        @property
        def io_type(self) -> list[str]:
            return self.options
