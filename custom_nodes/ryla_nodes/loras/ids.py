"""What may name a LoRA, and which files such a name stands for.

The rules are the same on every system: what Windows or macOS would read differently is refused everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from ..errors import RylaError
from ..files import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES

SUFFIX = ".safetensors"
SUFFIXES = SAFETENSORS_SUFFIXES
FOLDER_WEIGHTS = f"pytorch_lora_weights{SUFFIX}"

_PREFIXES = ("flux-character-", "character-")
_MAX_BYTES = 200  # A file name has at most 255, prefix and suffix included.
_SEPARATORS = ",;\n\r"
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_RESERVED = set('\\:*?"<>|') | set("∕⁄⧸⧹∖⧵╱╲⟋⟍")  # Not in Windows names; drawn or best-fit mapped as a slash.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class LoraId:
    """A checked name. ``folder`` is "" or ends in "/"; ``suffix`` is that of a file that was named by it, else ""."""

    text: str
    folder: str
    name: str
    core: str
    suffix: str

    @property
    def exact(self) -> bool:
        """Whether a file was named, suffix included."""
        return bool(self.suffix)

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Paths below a LoRA folder in groups: a later one is looked at only when all before it have no file."""
        every = _files(self.folder, self.name, self.core)
        if not self.exact:
            return (every,)
        named = _spellings(f"{self.folder}{self.name}{self.suffix}")
        return named, tuple(file for file in every if file not in named)

    def files(self) -> tuple[str, ...]:
        """All of these paths, in their order."""
        return tuple(file for group in self.groups() for file in group)


def parse(text: str) -> LoraId:
    """Check a LoRA id: a bare id, a UUID, ``[flux-]character-<id>`` or a file name, optionally below sub-folders ("/").

    Raises:
        RylaError: ``invalid_lora_id`` (what is wrong with it, and with which part), ``lora_pickle``.
    """
    if not isinstance(text, str):
        raise _invalid(repr(text), "it is not text")
    text = text.strip(" ")
    _check_text(text)
    text = unicodedata.normalize("NFC", text)
    if text.casefold().endswith(PICKLE_SUFFIXES):
        raise pickle_refused(text)
    *folders, name = text.split("/")
    stem = stem_of(name)
    suffix, name = name[len(stem) :].lower(), stem
    for part in (*folders, name):
        _check_part(text, part)
    folder = "".join(f"{part}/" for part in folders)
    return LoraId(text, folder, name, _core(name), suffix)


@lru_cache(maxsize=1 << 16)
def short_id(file: str) -> str:
    """The shortest id that names the file at this path below a LoRA folder: ``character-7.safetensors`` -> ``7``."""
    *folders, last = file.split("/")
    stem = stem_of(last)
    if normal(last) == FOLDER_WEIGHTS and folders:
        stem = folders.pop()
    folder = "".join(f"{part}/" for part in folders)
    core = _core(stem)
    return f"{folder}{core}" if normal(file) in _files(folder, core, core) else f"{folder}{stem}"


def stem_of(file: str) -> str:
    """A file's name without its suffix, in whatever case it is written; the name itself when it has none of ours."""
    suffix = next((suffix for suffix in SUFFIXES if file.casefold().endswith(suffix)), "")
    return file[: len(file) - len(suffix)]


def normal(file: str) -> str:
    """A file's name with the usual suffix in place of ``.SAFETENSORS`` or ``.sft``."""
    return f"{stem_of(file)}{SUFFIX}"


def pickle_refused(name: str) -> RylaError:
    """The error for a file that can run code when it is loaded."""
    why = f"a pickled PyTorch file, which can run code when loaded; only {SUFFIX} is read"
    return RylaError("lora_pickle", f"{name} is {why}.")


def _check_text(text: str) -> None:
    if not text:
        raise _invalid("", "it is empty")
    if any(separator in text for separator in _SEPARATORS):
        raise _invalid(text, "it names several LoRAs; give one id")
    if len(text) > _MAX_BYTES:
        raise _invalid(text, f"it is longer than {_MAX_BYTES} bytes")
    for char in text:
        category = unicodedata.category(char)
        if category in _INVISIBLE or char in _RESERVED or (category == "Zs" and char != " "):
            raise _invalid(text, f"it contains {char!a} (sub-folders are written with '/')")
    if unicodedata.normalize("NFKC", text) != unicodedata.normalize("NFC", text):
        raise _invalid(text, "it contains a look-alike of a plain character")
    if len(text.encode()) > _MAX_BYTES:
        raise _invalid(text, f"it is longer than {_MAX_BYTES} bytes")


def _check_part(text: str, part: str) -> None:
    if not part:
        raise _invalid(text, "it is absolute, or a part of it is empty")
    if part.startswith((".", " ")) or part.endswith((".", " ")):
        raise _invalid(text, f"its part {part!r} begins or ends with a dot or a space")
    if _DEVICE.match(part):
        raise _invalid(text, f"{part!r} is a device name on Windows")


def _invalid(text: str, why: str) -> RylaError:
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    return RylaError("invalid_lora_id", f"{shown!r} is not a LoRA id: {why}.", lora_id=text[:_MAX_BYTES])


def _core(name: str) -> str:
    while True:
        prefix = next((prefix for prefix in _PREFIXES if name.casefold().startswith(prefix)), None)
        if prefix is None or not _is_part(name[len(prefix) :]):
            return name
        name = name[len(prefix) :]


def _is_part(name: str) -> bool:
    return bool(name) and not name.startswith((".", " ")) and not _DEVICE.match(name)


def _files(folder: str, name: str, core: str) -> tuple[str, ...]:
    cores = (core, core.lower()) if _UUID.fullmatch(core) else (core,)
    stems = [name]
    for each in cores:
        stems += [each, f"character-{each}", f"flux-character-{each}"]
    files = [f"{folder}{stem}{SUFFIX}" for stem in stems]
    files += [f"{folder}character-{each}/{FOLDER_WEIGHTS}" for each in cores]
    return tuple(dict.fromkeys(spelling for file in files for spelling in _spellings(file)))


def _spellings(file: str) -> tuple[str, ...]:
    # macOS tools write decomposed names ("e" + accent); both spellings are the same name to a person.
    return (file,) if file.isascii() else tuple(dict.fromkeys((file, unicodedata.normalize("NFD", file))))
