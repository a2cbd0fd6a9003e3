"""A machine for the model commands: a local hub with stand-ins, a volume, a home, and the commands themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from ryla_nodes.cli import output
from ryla_nodes.cli.models import command
from ryla_nodes.errors import RylaError
from ryla_nodes.models import catalogue as catalogues
from ryla_nodes.models.catalogue import Catalogue, HubSource, parse_source
from typer.testing import CliRunner
from unit import hub_server, models_standins

CHUNK = 1 << 14
# The library writes in chunks of 10 MB: what came of a chunk is lost in a kill. The stand-ins are smaller than that.
PROGRAM = (
    "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {chunk}; "
    "from ryla_nodes.cli.app import main; main()"
)


@dataclass
class Result:
    """What a command answered: its ``--json`` object, its exit status, and what people would read."""

    answer: dict[str, Any]
    status: int
    text: str

    @property
    def code(self) -> str:
        return str(self.answer["error"]["code"]) if not self.answer["ok"] else "ok"

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The result of each file, by its id."""
        found = self.answer["results"] if self.answer["ok"] else self.answer["error"]["details"]["results"]
        return {item["id"]: item for item in found}

    @property
    def states(self) -> dict[str, str]:
        """The state of each file, or the code of its failure."""
        failed = {key: item["error"]["code"] for key, item in self.results.items() if item.get("error")}
        return {key: failed.get(key, item["state"]) for key, item in self.results.items()}


@dataclass
class World:
    """One test's machine."""

    hub: hub_server.Hub
    root: Path
    contents: dict[str, bytes] = field(default_factory=dict)
    archives: dict[str, bytes] = field(default_factory=dict)
    extra: str = ""

    @property
    def volume(self) -> Path:
        return self.root / "volume"

    @property
    def catalogue(self) -> Catalogue:
        return catalogues.load(self.root / "catalogue.toml")

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.root / "home"),
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.root / "home" / "hf"),
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_XET": "1",
            "RYLA_HOME": str(self.root / "home" / "ryla"),
            "RYLA_CATALOGUE": str(self.root / "catalogue.toml"),
            "RYLA_VOLUME": "",
            "RYLA_COMFYUI": "",
        }

    def publish(self, ids: Iterable[str], size: int = 0) -> None:
        """Put stand-ins of catalogue files on the hub, under the address that the catalogue gives them."""
        shipped = catalogues.load(Path(catalogues.__file__).with_name("catalogue.toml"))
        for model_id in ids:
            entry = shipped.get(model_id)
            for part in shipped.files(entry):
                self.contents[part.id] = models_standins.content(part, size)
                self.hub.add(part.repo, part.path, self.contents[part.id])
        self.write_catalogue()

    def publish_archive(self, archive_id: str, data: bytes) -> None:
        """Put a zip on the hub where the catalogue's first ``hf://`` address of it points."""
        shipped = catalogues.load(Path(catalogues.__file__).with_name("catalogue.toml"))
        source = parse_source(shipped.archives[archive_id].urls[0])
        assert isinstance(source, HubSource)
        self.hub.add(source.repo, source.path, data)
        self.archives[archive_id] = data
        self.write_catalogue()

    def write_catalogue(self) -> None:
        text = models_standins.override(self.contents, self.archives)
        (self.root / "catalogue.toml").write_text(text + self.extra, encoding="utf-8")

    def name(self, model_id: str) -> str:
        """``owner/repo/path`` of a file on the hub."""
        entry = self.catalogue.get(model_id)
        return f"{entry.repo}/{entry.path}"

    def path(self, model_id: str) -> Path:
        """Where a file belongs on the volume."""
        entry = self.catalogue.get(model_id)
        return self.volume / entry.folder / entry.filename

    def is_right(self, model_id: str) -> bool:
        return self.path(model_id).read_bytes() == self.contents[model_id]

    def run(self, *arguments: object, volume: bool = True, environment: Mapping[str, str] | None = None) -> Result:
        """Run ``ryla models ARGUMENTS --json`` in this process."""
        place = ["--volume", self.volume] if volume else []
        variables = {**self.environment, **(environment or {})}
        with mock.patch.dict(os.environ, variables), self._hub_cache():
            result = CliRunner().invoke(command.app, [str(item) for item in [*arguments, *place, "--json"]])
        output.set_debug(False)
        if isinstance(result.exception, RylaError):
            error = result.exception
            return Result({"ok": False, "error": error.as_dict()}, error.entry.exit_status, result.stderr)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(json.loads(result.stdout or "{}"), result.exit_code, result.stderr)

    @contextmanager
    def _hub_cache(self) -> Iterator[None]:
        """The library reads its environment once, at import."""
        from huggingface_hub import constants

        cache = str(self.root / "home" / "hf" / "hub")
        patched = {"HF_HUB_CACHE": cache, "HF_HUB_DISABLE_XET": True, "DOWNLOAD_CHUNK_SIZE": CHUNK}
        known = {name: value for name, value in patched.items() if hasattr(constants, name)}
        with mock.patch.multiple(constants, **known):
            yield

    def start(
        self, *arguments: object, environment_extra: Mapping[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Start ``ryla models ARGUMENTS --volume ... --json`` as a process of its own."""
        words = [str(item) for item in ["models", *arguments, "--volume", self.volume, "--json"]]
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(chunk=CHUNK), *words],
            env={**os.environ, **self.environment, **(environment_extra or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def finish(self, process: subprocess.Popen[str]) -> Result:
        """Wait for a started process."""
        out, err = process.communicate(timeout=120)
        assert out, err
        return Result(json.loads(out), process.returncode, err)

    def strays(self) -> list[Path]:
        """Files that should not be left behind."""
        return [path for path in self.volume.rglob("*") if path.suffix in (".part", ".zip", ".incomplete", ".xet")]


@contextmanager
def world(root: Path) -> Iterator[World]:
    """A fresh machine below ``root``."""
    with hub_server.serve() as hub:
        made = World(hub, root)
        made.write_catalogue()
        yield made
