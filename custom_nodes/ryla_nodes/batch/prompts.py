"""Prompts as text, one a line: the sets that are shipped, and files of users."""

from __future__ import annotations

from pathlib import Path

from ..errors import RylaError
from ..files import read_text
from ..similar import nearest

SCENES = "scenes"
DRAWN = ".drawn"
"""What the name of a set ends with that is in the words of the embedded engine's own models."""

_FOLDER = Path(__file__).with_name("prompt_sets")
_LONGEST = 10_000


def shipped() -> tuple[str, ...]:
    """The names of the sets that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def load(name: str) -> tuple[str, ...]:
    """A shipped set; empty when there is none of this name."""
    path = _FOLDER / f"{name}.txt"
    return _lines(read_text(path)) if name in shipped() else ()


def read(path: Path) -> tuple[str, ...]:
    """The prompts of a file: a line each; empty lines and those that begin with ``#`` are passed over.

    UTF-8, or UTF-16 with a byte order mark, as Windows' editors write it.

    Raises:
        RylaError: ``invalid_prompts`` with the line; ``unreadable_file``.
    """
    try:
        content = read_text(path)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        hint = "Save it as UTF-8."
        message = f"{path}, line {line}: it is not UTF-8 text."
        raise RylaError("invalid_prompts", message, hint=hint, path=str(path), line=line) from error
    except OSError as error:
        raise RylaError("unreadable_file", f"{path} cannot be read: {error.strerror}.", path=str(path)) from error
    for number, text in enumerate(content.split("\n"), 1):
        if "\0" in text or len(text) > _LONGEST:
            message = f"{path}, line {number}: that is no prompt (a NUL, or more than {_LONGEST} characters)."
            raise RylaError("invalid_prompts", message, path=str(path), line=number)
    found = _lines(content)
    if not found:
        raise RylaError("invalid_prompts", f"{path} has no prompt: a line each is wanted.", path=str(path))
    return found


def choose(given: str, name: str, *, drawn: bool) -> tuple[str, ...]:
    """The prompts that a user means: a file's, a shipped set's, or without ``given`` those of the set ``name``.

    Args:
        drawn: the engine paints with its own small models.

    Raises:
        RylaError: as ``read``; ``invalid_prompts`` for what is neither.
    """
    if not given:
        return (load(name + DRAWN) if drawn else ()) or load(name)
    path = Path(given).expanduser()
    if path.exists() or path.suffix not in ("", DRAWN):
        return read(path)
    found = load(given)
    if not found:
        near = nearest(given, shipped())
        known = f'did you mean "{near}"?' if near else f"shipped are {', '.join(shipped())}."
        raise RylaError("invalid_prompts", f"There is no file {given}, and no set of prompts of this name: {known}")
    return found


def _lines(content: str) -> tuple[str, ...]:
    # A prompt may hold what str.splitlines takes for the end of a line.
    texts = (line.strip() for line in content.split("\n"))
    return tuple(text for text in texts if text and not text.startswith("#"))
