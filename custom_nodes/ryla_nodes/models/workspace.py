"""Find the ComfyUI of this machine, in comfy-cli's order, and read its ``extra_model_paths.yaml``."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RylaError

_MARKERS = ("main.py", "comfy", "nodes.py", "comfy_extras", "comfy_api")
_ENOUGH_MARKERS = 4


@dataclass(frozen=True)
class ExtraPath:
    """One search path of ``extra_model_paths.yaml``; ``is_default`` puts it before ComfyUI's own."""

    folder: str
    path: Path
    is_default: bool


def is_comfyui(path: Path) -> bool:
    """Whether ``path`` is the folder of a ComfyUI (comfy-cli's rule: four of five marker files)."""
    return sum((path / marker).exists() for marker in _MARKERS) >= _ENOUGH_MARKERS


def enclosing_comfyui(path: Path) -> Path | None:
    """The ComfyUI folder that ``path`` is, or is inside of, or None."""
    return next((folder for folder in (path, *path.parents) if is_comfyui(folder)), None)


def discover(cwd: Path | None = None) -> Path | None:
    """comfy-cli's workspace: the current folder's ComfyUI, the default one, the recent one, its standard place."""
    here = enclosing_comfyui(cwd or Path.cwd())
    configured = [value for value in map(config_value, ("default_workspace", "recent_workspace")) if value]
    candidates = [Path(value).expanduser() for value in configured] + [standard_place()]
    return here or next((path for path in candidates if is_comfyui(path)), None)


def python_of(comfyui: Path) -> Path:
    """The Python of a ComfyUI: its own environment or portable one, else the active one, as comfy-cli chooses."""
    active = [Path(value) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if (value := os.environ.get(name))]
    inside = [python_in(comfyui / name) for name in (".venv", "venv")]
    places = [*inside, comfyui.parent / "python_embeded" / "python.exe", *map(python_in, active)]
    # A link to a Python that is gone is still the answer: it is what is wrong.
    return next((path for path in places if path.exists() or path.is_symlink()), Path(sys.executable))


def python_in(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def config_value(key: str) -> str:
    """A value of comfy-cli's configuration, empty when there is none."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(_config_file(), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return ""
    return parser.defaults().get(key, "")


def _config_file() -> Path:
    home = Path.home()
    by_platform = {
        "win32": home / "AppData" / "Local" / "comfy-cli",
        "darwin": home / "Library" / "Application Support" / "comfy-cli",
    }
    return by_platform.get(sys.platform, home / ".config" / "comfy-cli") / "config.ini"


def standard_place() -> Path:
    """Where comfy-cli installs when nothing is configured."""
    base = Path.home() / "Documents" if sys.platform in ("win32", "darwin") else Path.home()
    return base / "comfy" / "ComfyUI"


def extra_model_paths(file: Path) -> list[ExtraPath]:
    """The search paths of an ``extra_model_paths.yaml``, read as ComfyUI reads it; none when there is no file.

    ``base_path`` is expanded (``~``, variables) and relative to the file; a value may hold several lines.

    Raises:
        RylaError: ``invalid_model_paths`` when ComfyUI would not start with the file.
    """
    if not file.is_file():
        return []
    import yaml

    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RylaError("invalid_model_paths", f"{file} cannot be read as YAML: {error}", path=file) from error
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise RylaError("invalid_model_paths", f"{file}: the top level is not a mapping.", path=file)
    return [path for name, section in config.items() if section is not None for path in _section(file, name, section)]


def _section(file: Path, name: str, section: Any) -> Iterator[ExtraPath]:
    if not isinstance(section, dict):
        raise RylaError("invalid_model_paths", f"{file}: section {name!r} is not a mapping.", path=file)
    values = dict(section)
    base = _base_path(file, values.pop("base_path", None))
    is_default = bool(values.pop("is_default", False))
    for folder, lines in values.items():
        if not isinstance(lines, str):
            raise RylaError("invalid_model_paths", f"{file}: {name}.{folder} is {lines!r}, not text.", path=file)
        for line in filter(None, lines.split("\n")):
            yield ExtraPath(str(folder), Path(os.path.normpath(base / line)), is_default)


def _base_path(file: Path, value: Any) -> Path:
    # ComfyUI expands base_path only, and takes everything relative to the file.
    folder = file.absolute().parent
    return folder / os.path.expandvars(Path(str(value)).expanduser()) if value else folder
