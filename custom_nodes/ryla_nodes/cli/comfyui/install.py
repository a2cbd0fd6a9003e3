"""Install ComfyUI through comfy-cli, put the pack into it, and prove by starting it that both work."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...errors import RylaError
from ...models import workspace
from ..doctor import comfyui as doctor_comfyui
from ..doctor import finding as doctor_finding
from ..doctor import python as doctor_python

COMFY_CLI = "1.23.0"
COMFYUI = "0.33.0"

_PACK = Path(__file__).resolve().parents[2]
_SHOWN_LINES = 40
# In seconds. An installation fetches some 3 GB, over whatever line there is.
_INSTALL_WITHIN = 4 * 3600.0
_START_WITHIN = 900.0
_LAST_WORDS = 2.0

Show = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What to install.

    ``version`` None: the tested one, or whatever recent enough one is there already. ``device`` is cpu or nvidia,
    ``url`` a git URL or path of ComfyUI, ``venv`` an existing environment.
    """

    folder: Path
    version: str | None = None
    device: str = "nvidia"
    url: str | None = None
    venv: Path | None = None


@dataclass(frozen=True)
class Installed:
    """What is there now."""

    folder: Path
    version: str
    python: Path
    pack: Path


def install(wanted: Wanted, show: Show) -> Installed:
    """Install what is missing and check the result; ``show`` gets each line of the programs that run.

    Raises:
        RylaError: ``comfy_cli_missing``, ``comfyui_install_failed``.
    """
    if not workspace.is_comfyui(wanted.folder):
        _run_comfy_cli(wanted, show)
    version = _version(wanted)
    if "torch" not in _asked(wanted).distributions:
        _run_comfy_cli(wanted, show, "--restore")  # An earlier attempt stopped before its packages were there.
    python = _python(wanted)
    pack = _put_pack(wanted.folder)
    _install_requirements(python, show)
    _require_start(wanted, python, show)
    return Installed(wanted.folder, version, python, pack)


def _run_comfy_cli(wanted: Wanted, show: Show, *more: str) -> None:
    arguments = [_comfy_cli(), "--skip-prompt", "--no-json", "--workspace", str(wanted.folder), "install"]
    arguments += ["--version", wanted.version or COMFYUI, f"--{wanted.device}", *more]
    arguments += ["--url", wanted.url] if wanted.url else []
    status, lines = _run(arguments, show, _INSTALL_WITHIN, environment=_environment(wanted))
    # comfy-cli exits with 0 on some failures, so what counts is what is there.
    if status == 0 and workspace.is_comfyui(wanted.folder):
        return
    raise RylaError(
        "comfyui_install_failed",
        f"comfy-cli did not install ComfyUI in {wanted.folder} (exit status {status}): {_reason(lines)}",
        hint=f"Delete {wanted.folder}, check the network, and run the same command.",
        log=lines[-_SHOWN_LINES:],
    )


def _comfy_cli() -> str:
    """The ``comfy`` beside this Python, else the one on PATH."""
    beside = shutil.which("comfy", path=str(Path(sys.executable).parent))
    program = beside or shutil.which("comfy")
    if program is None:
        raise RylaError(
            "comfy_cli_missing",
            "comfy-cli is not installed.",
            hint=f"{sys.executable} -m pip install 'comfy-cli=={COMFY_CLI}'",
        )
    return program


def _environment(wanted: Wanted) -> dict[str, str]:
    """comfy-cli installs into an active environment; ComfyUI gets its own, or the one that is asked for."""
    taken = ("VIRTUAL_ENV", "CONDA_PREFIX")
    environment = {name: value for name, value in os.environ.items() if name not in taken}
    environment["DO_NOT_TRACK"] = "1"
    if wanted.venv:
        environment["VIRTUAL_ENV"] = str(wanted.venv)
    return environment


def _run(
    arguments: Sequence[str],
    show: Show,
    within: float,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[int, list[str]]:
    """Run a program with its lines shown as they come; its exit status and its lines.

    It is over when the program itself ends, even if something that it started still holds its output open.

    Raises:
        RylaError: ``comfyui_install_failed`` when it takes more than ``within`` seconds; then, as after a Ctrl-C, it is
            killed with all that it started.
    """
    lines: list[str] = []
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=os.name == "posix",
    )
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, lines, show), daemon=True)
    try:
        reader.start()
        status = process.wait(within)
    except subprocess.TimeoutExpired as error:
        raise RylaError(
            "comfyui_install_failed",
            f"{' '.join(arguments)} was not done within {within:.0f} s; its last line: {_reason(lines[-1:])}",
            hint="Run the same command again.",
            log=lines[-_SHOWN_LINES:],
        ) from error
    finally:
        if process.poll() is None:
            _kill(process)
        if reader.is_alive():
            reader.join(_LAST_WORDS)
    return status, list(lines)


def _read(output: IO[str], lines: list[str], show: Show) -> None:
    with output:
        for line in output:
            lines.append(line.rstrip())
            show(line.rstrip())


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a program and, where there are process groups, whatever it started."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(_LAST_WORDS)


def _reason(lines: Sequence[str]) -> str:
    """The line of a log that says most: the first error, else the last line."""
    said = [line.strip("│╭╰─╮╯❱ ") for line in lines]
    errors = [line for line in said if line.lower().startswith(("fatal", "error", "failed")) or "Error:" in line]
    return next((line for line in [*errors, *reversed(said)] if line), "it said nothing")


def _version(wanted: Wanted) -> str:
    found = doctor_comfyui.version(wanted.folder)
    if wanted.version is not None and found != wanted.version:
        raise RylaError(
            "comfyui_install_failed",
            f"{wanted.folder} is ComfyUI {found}, not {wanted.version}.",
            hint="Leave --version out to keep it, or give another --path.",
        )
    finding = doctor_comfyui.check_version(found)
    if finding.level != doctor_finding.OK:
        raise RylaError("comfyui_install_failed", finding.message, hint=finding.fix)
    return found


def _asked(wanted: Wanted) -> doctor_python.Python:
    """What ComfyUI's Python says of itself."""
    python = workspace.python_in(wanted.venv) if wanted.venv else workspace.python_of(wanted.folder)
    answer = doctor_python.ask(python)
    if isinstance(answer, doctor_finding.Finding):
        raise RylaError("comfyui_install_failed", answer.message)
    return answer


def _python(wanted: Wanted) -> Path:
    found = _asked(wanted)
    if "torch" not in found.distributions:
        raise RylaError(
            "comfyui_install_failed",
            f"{found.path} has no torch: comfy-cli did not install ComfyUI's packages.",
            hint=f"comfy --workspace {wanted.folder} install --restore --{wanted.device}",
        )
    return found.path


def _put_pack(comfyui: Path) -> Path:
    """Link the pack into custom_nodes (copy it where links are refused), unless it is in by another way."""
    extra = workspace.extra_model_paths(comfyui / "extra_model_paths.yaml")
    finding = doctor_comfyui.check_pack(comfyui, [item.path for item in extra if item.folder == "custom_nodes"])
    place = comfyui / "custom_nodes" / _PACK.name
    if finding.level == doctor_finding.OK:
        return place
    if place.is_symlink() and not place.exists():
        place.unlink()
    if place.exists():
        raise RylaError("comfyui_install_failed", finding.message, hint=finding.fix)
    place.parent.mkdir(exist_ok=True)
    try:
        place.symlink_to(_PACK, target_is_directory=True)
    except OSError:
        shutil.copytree(_PACK, place, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def _install_requirements(python: Path, show: Show) -> None:
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in importlib.metadata.requires("ryla-nodes") or []]
    plain = [f"{item.name}{item.specifier}" for item in needed if item.marker is None]
    status, lines = _run([str(python), "-m", "pip", "install", "--quiet", *plain], show, _INSTALL_WITHIN)
    if status != 0:
        raise RylaError(
            "comfyui_install_failed",
            f"pip could not install the pack's packages: {_reason(lines)}",
            log=lines[-_SHOWN_LINES:],
        )


def _require_start(wanted: Wanted, python: Path, show: Show) -> None:
    """Start ComfyUI as far as its own quick test goes: all packs are imported, then it ends."""
    show("starting ComfyUI once, to see that the pack loads")
    arguments = [str(python), "main.py", "--quick-test-for-ci", *(["--cpu"] if wanted.device == "cpu" else [])]
    log: list[str] = []
    status, lines = _run(arguments, log.append, _START_WITHIN, folder=wanted.folder)
    failed = [line for line in log if "IMPORT FAILED" in line and _PACK.name in line]
    if status != 0:
        raise RylaError(
            "comfyui_install_failed", f"ComfyUI does not start: {_reason(lines)}", log=lines[-_SHOWN_LINES:]
        )
    if failed:
        raise RylaError(
            "comfyui_install_failed", f"ComfyUI could not load the pack: {_reason(lines)}", log=lines[-_SHOWN_LINES:]
        )
