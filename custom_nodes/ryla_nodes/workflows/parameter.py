"""One declared parameter and the values that it takes: CLI strings become numbers, what does not fit is refused."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from ..similar import nearest

ParameterType = Literal["string", "text", "int", "float", "bool", "enum", "seed", "image", "lora"]
PARAMETER_TYPES: tuple[ParameterType, ...] = get_args(ParameterType)
Value = str | int | float | bool

_NUMBER = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?", re.ASCII)
# Keeps arithmetic on hostile digits bounded; every range in use lies far inside.
_LARGEST = 10**30
# Spreadsheets round what has more than eleven digits, and write it with an exponent.
_ROUNDED = 10**11
# A list up to this long is shown whole instead of its nearest entry.
_FEW = 6
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_IMAGE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Binding:
    """One input of one node that a parameter sets."""

    title: str
    node_id: str
    input: str


@dataclass(frozen=True)
class Parameter:
    """One declared parameter.

    ``default`` is None for a required parameter and for a seed, which is random unless given. ``min``, ``max`` and
    ``step`` belong to ``int``, ``float`` and ``seed``: valid values are ``min + k * step``; ``choices`` to ``enum``.
    """

    name: str
    type: ParameterType
    help: str
    bindings: tuple[Binding, ...]
    required: bool = False
    default: Value | None = None
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class BadValue(ValueError):
    """Why a value does not fit its parameter; ``facts`` holds the machine-readable part."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


def coerce(parameter: Parameter, value: object) -> Value:
    """The value as the parameter's type and within its range.

    Raises:
        BadValue: with the nearest valid value or values where there are any.
    """
    kind = parameter.type
    if kind in ("int", "seed"):
        return _in_range(parameter, _integer(parameter, value))
    if kind == "float":
        return _in_range(parameter, float(_number(parameter, value)))
    if kind == "bool":
        return _boolean(parameter, value)
    if kind == "enum":
        return _choice(parameter, value)
    if kind == "image":
        return str(_image(parameter, value))
    # A LoRA id that is a bare number arrives from JSON and CSV as one.
    if kind == "lora" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _string(parameter, value)


def _string(parameter: Parameter, value: object) -> str:
    if not isinstance(value, str):
        raise BadValue(f"{parameter.name} is a text, not {_show(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadValue(f"{parameter.name} holds a character that is not valid Unicode, at {error.start}") from error
    if parameter.required and not value.strip():
        raise BadValue(f"{parameter.name} is empty")
    return value.strip() if parameter.type == "lora" else value


def _number(parameter: Parameter, value: object) -> Fraction:
    number = _exact(value)
    if number is None:
        raise BadValue(f"{parameter.name} is a number, not {_show(value)}")
    if abs(number) > _LARGEST:
        raise BadValue(f"{parameter.name} is too large")
    return number


def _exact(value: object) -> Fraction | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, float):
        return Fraction(value) if math.isfinite(value) else None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return Fraction(Decimal(value.strip()))
    return None


def _integer(parameter: Parameter, value: object) -> int:
    if parameter.type == "seed" and _looks_rounded(value):
        told = f"{_show(value)} looks rounded, as spreadsheets do: write its digits in a cell formatted as text"
        raise BadValue(f"{parameter.name} {told}")
    number = _number(parameter, value)
    if number.denominator != 1:
        raise BadValue(f"{parameter.name} is a whole number, not {_show(value)}")
    return int(number)


def _looks_rounded(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) >= _ROUNDED
    return isinstance(value, str) and "e" in value.casefold() and _exact(value) is not None


def _in_range(parameter: Parameter, value: int | float) -> int | float:
    name, low, high = parameter.name, parameter.min, parameter.max
    if low is not None and value < low:
        suffix = ": leave it out for a random one" if parameter.type == "seed" else ""
        raise BadValue(f"{name} {value} is below the smallest, {low}{suffix}", nearest=[low], min=low, max=high)
    if high is not None and value > high:
        raise BadValue(f"{name} {value} is above the largest, {high}", nearest=[high], min=low, max=high)
    if low is not None and parameter.step is not None:
        _on_step(parameter, value, low, parameter.step)
    return value


def _on_step(parameter: Parameter, value: int | float, low: int | float, step: int | float) -> None:
    """Refuse a value off the grid ``low + k * step``; decimal arithmetic, so that 0.3 is three steps of 0.1."""
    exact, start, width = (Fraction(str(number)) for number in (value, low, step))
    steps = (exact - start) / width
    if steps.denominator == 1:
        return
    around = [start + width * math.floor(steps), start + width * math.ceil(steps)]
    inside = [number for number in around if parameter.max is None or number <= parameter.max]
    near = [int(number) if parameter.type != "float" else float(number) for number in inside]
    grid = f"a multiple of {step}" if (start / width).denominator == 1 else f"{low} plus a multiple of {step}"
    listing = f"the nearest are {near[0]} and {near[1]}" if len(near) == 2 else f"the nearest is {near[0]}"
    raise BadValue(
        f"{parameter.name} {value} is not {grid}: {listing}",
        nearest=near,
        step=step,
    )


def _boolean(parameter: Parameter, value: object) -> bool:
    word = value.strip().casefold() if isinstance(value, str) else value
    if word in (*_TRUE, True):
        return True
    if word in (*_FALSE, False):
        return False
    raise BadValue(f"{parameter.name} is true or false, not {_show(value)}", nearest=["true", "false"])


def _choice(parameter: Parameter, value: object) -> str:
    if isinstance(value, str) and value in parameter.choices:
        return value
    near = nearest(value, parameter.choices) if isinstance(value, str) else None
    listed = len(parameter.choices) <= _FEW or near is None
    suggestion = f"it is one of {', '.join(parameter.choices)}" if listed else f'did you mean "{near}"?'
    raise BadValue(
        f"{parameter.name} has no choice {_show(value)}: {suggestion}",
        nearest=[near] if near else [],
        choices=list(parameter.choices),
    )


def _image(parameter: Parameter, value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise BadValue(f"{parameter.name} is the path of a picture, not {_show(value)}")
    path = Path(value)
    try:
        head = _head(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadValue(f"{parameter.name} {_whole(path)} cannot be read: {reason}", path=str(path)) from error
    webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    if not webp and not head.startswith(_IMAGE_SIGNATURES):
        kinds = "PNG, JPEG, WebP, GIF, BMP or TIFF"
        found = "is empty" if not head else f"is not a picture ({kinds})"
        raise BadValue(f"{parameter.name} {_whole(path)} {found}", path=str(path))
    damage = _damage(path)
    if damage:
        raise BadValue(f"{parameter.name} {_whole(path)} {damage}", path=str(path))
    return path


def _damage(path: Path) -> str:
    """Why the engine will not be able to load the picture; empty when it will."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft("RGB", (1, 1))  # A JPEG is read to its end, but drawn small.
                image.load()
    except Image.DecompressionBombError:
        return "has too many pixels: scale it down, 4000 on the long side is plenty"
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return f"is damaged or incomplete: {error}"
    return ""


def _head(path: Path) -> bytes:
    """The first bytes of a file; a pipe, which would be waited for, counts as unreadable."""
    if path.exists() and not path.is_file():
        raise OSError("it is not a file")
    with path.open("rb") as file:
        return file.read(12)


def _whole(path: Path) -> str:
    """A path is told whole, so that it can be found; none is longer than 4096 characters."""
    return f'"{str(path)[:4096]}"'


def _show(value: object) -> str:
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "that number"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
