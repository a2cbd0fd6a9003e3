"""What systemd makes of a unit's ExecStart: its environment and its words."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Unit:
    """The settings of a unit by name; of one that is given several times the last."""

    settings: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Unit:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
        return cls({name: value for name, _, value in found})

    def environment(self, file: Path) -> dict[str, str]:
        """``Environment=``, and the EnvironmentFile that lies at ``file``; the file wins."""
        own = dict(word.split("=", 1) for word in shlex.split(self.settings["Environment"]))
        lines = file.read_text(encoding="utf-8").splitlines()
        return own | dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    def command(self, environment: dict[str, str]) -> list[str]:
        """ExecStart: ``${NAME}`` is replaced within a word, ``$NAME`` alone by as many words as it has."""
        words: list[str] = []
        for word in shlex.split(self.settings["ExecStart"]):
            if re.fullmatch(r"\$\w+", word):
                words += shlex.split(environment.get(word[1:], ""))
            else:
                words.append(re.sub(r"\$\{(\w+)\}", lambda found: environment.get(found[1], ""), word))
        return words
