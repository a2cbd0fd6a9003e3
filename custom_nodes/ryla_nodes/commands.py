"""How a command of this package is written where it is read.

Messages name ``ryla ...``. Inside ComfyUI there is often no such program: there a command is the full path of that
Python and of a script of the pack, quoted so that it can be pasted as it stands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_GROUPS = "comfyui|doctor|engine|face|loras|run|serve|workflows"
# Compiled when a command is first told: ComfyUI waits for this file at every start.
_COMMAND = rf"(?<![\w/.-])ryla (?:(models)(?: (install|check|remove))?|({_GROUPS}))\b"
_WORD = r"(?:[^\s\"']*\"[^\"]*\"|'[^']*'|\S+)"
_SCRIPT = r"(?:\"[^\"]*|'[^']*|\S*)[/\\]scripts[/\\](install_models|ryla)\.py[\"']?"
_SPELLED = rf"{_WORD} {_SCRIPT}( [a-z]+)(?: --(?:comfyui|volume) {_WORD})?"
_SPECIAL = r"[\s&|<>^()%!=;,'@{}`$]"
"""What Windows' shells, cmd and PowerShell, do not take as it is; a quotation mark is in no path there."""
_INSTALL = r"\bryla models install((?: [\w.-]+)+)"


def quoted(words: Sequence[str], *, windows: bool = sys.platform == "win32") -> str:
    """One command line of ``words``, for a POSIX shell, or for Windows' command prompt and PowerShell alike."""
    if not windows:
        import shlex

        return shlex.join(words)
    program, *rest = words
    return " ".join([_program(program), *(f'"{word}"' if re.search(_SPECIAL, word) else word for word in rest)])


def _program(path: str) -> str:
    """A program's path for Windows: PowerShell runs no line that begins with a quotation mark."""
    if not re.search(_SPECIAL, path):
        return path
    drive, separator, rest = path.partition("\\")
    return f'{drive}{separator}"{rest}"' if separator else f'"{path}"'


def pip(*packages: str) -> str:
    """The command that brings ``packages`` to the Python that runs this."""
    return quoted([sys.executable, "-m", "pip", "install", *packages])


@dataclass(frozen=True)
class Scripts:
    """The pack's scripts, as commands.

    Attributes:
        python: full path of the Python that has what the scripts need.
        folder: full path of the folder ``scripts``.
        place: the options that say where model files go, such as ``("--comfyui", "/ComfyUI")``.
    """

    python: str
    folder: str
    place: tuple[str, ...] = ()
    windows: bool = sys.platform == "win32"

    def spell(self, text: str) -> str:
        """``text`` with each ``ryla ...`` in it as a command of this pack."""
        return re.sub(_COMMAND, self._command, text)

    def _command(self, found: re.Match[str]) -> str:
        models, verb, group = found.groups()
        script = "install_models.py" if models else "ryla.py"
        rest = [verb, *self.place] if verb else [group] if group else []
        separator = "\\" if self.windows else "/"
        return quoted([self.python, f"{self.folder}{separator}{script}", *rest], windows=self.windows)


_scripts: list[Scripts] = []


def speak(scripts: Scripts | None) -> None:
    """Spell the commands of this process's messages by ``scripts``; None: as ``ryla ...``."""
    _scripts[:] = [scripts] if scripts else []


def spelled(text: str) -> str:
    """``text`` with its commands as they work where this process's messages are read."""
    return _scripts[-1].spell(text) if _scripts else text


def plain(text: str) -> str:
    """``text`` with commands that another process has spelled as ``ryla ...`` again."""
    return re.sub(_SPELLED, _as_ryla, text)


def _as_ryla(found: re.Match[str]) -> str:
    return f"ryla{' models' if found[1] == 'install_models' else ''}{found[2]}"


def installs(text: str) -> list[str]:
    """The model ids and workflow names that ``ryla models install`` in ``text`` is given; empty without one."""
    found = re.search(_INSTALL, text)
    return found[1].split() if found else []


def install(names: Sequence[str]) -> str:
    """The one command that installs ``names``, each once."""
    return f"ryla models install {' '.join(dict.fromkeys(names))}"
