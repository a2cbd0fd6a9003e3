"""``ryla deploy modal``: the commands that put the gateway on Modal, told or run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ... import commands
from ... import settings as environment
from ...errors import RylaError
from .. import output
from . import modal_plan
from .modal_plan import ModalPlan

_REPOSITORY = Path(__file__).resolve().parents[4]


def modal(
    told: Annotated[
        Path | None, typer.Option("--settings", help="The settings. Default: RYLA_MODAL, else deploy/modal.toml.")
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Run the commands instead of telling them.")] = False,
    json_: output.JsonOption = False,
) -> None:
    """Tell the commands for a gateway on Modal: its secrets, its weights, its deployment."""
    deploy = _REPOSITORY / "deploy"
    path = (told or environment.load().modal or deploy / "modal.toml").expanduser().absolute()
    if not (deploy / "modal_app.py").is_file():
        message = f"There is no {deploy / 'modal_app.py'}: this ryla is not that of a clone of the repository."
        raise RylaError("invalid_deployment", message, hint="Clone the repository, and: pip install -e '.[modal]'")
    plan = modal_plan.load(path)
    steps = _steps(plan, deploy / "modal_app.py")
    if run:
        _run(steps, path)
    elif not output.json_mode():
        prefix = f"RYLA_MODAL={commands.quoted([str(path)])} " if path != deploy / "modal.toml" else ""
        for step in steps:
            output.say(f"# {step.why}")
            typer.echo(prefix + step.line)
    if output.json_mode():
        output.emit({"settings": str(path), "ran": run, "commands": [step.line for step in steps]})


@dataclass(frozen=True)
class _Step:
    """One command of Modal's own program.

    Attributes:
        secret: the variable of the environment whose value the command stores; "" for none.
    """

    why: str
    words: tuple[str, ...]
    secret: str = ""

    @property
    def line(self) -> str:
        """For a shell, which puts the secret in: it is shown nowhere."""
        told = commands.quoted(["modal", *self.words])
        return f'{told} {self.secret}="${self.secret}"' if self.secret else told


def _steps(plan: ModalPlan, app: Path) -> list[_Step]:
    token = _Step("your secret: whoever bears it may use the gateway", ("secret", "create", plan.secret), "RYLA_TOKEN")
    deployed = _Step("its last lines tell the address", ("deploy", str(app)))
    if plan.engine == "embedded":
        return [token, deployed]
    names = ",".join(plan.workflows) or "--all"
    return [
        token,
        _Step(
            "a token of huggingface.co whose owner has accepted FLUX.1 Dev's licence",
            ("secret", "create", plan.hub_secret),
            "HF_TOKEN",
        ),
        _Step(
            "the weights, to the volume; again it goes on where it stopped",
            ("run", f"{app}::install", f"--names={names}"),
        ),
        deployed,
    ]


def _run(steps: Sequence[_Step], settings: Path) -> None:
    """Run them in order; a secret that is there already is kept, and else the first that fails is the last.

    Raises:
        RylaError: ``modal_missing``, ``token_required``, ``deployment_failed``.
    """
    if importlib.util.find_spec("modal") is None:
        raise RylaError("modal_missing", "The package modal is not installed.", hint=commands.pip("ryla-nodes[modal]"))
    unset = [step for step in steps if step.secret and not os.environ.get(step.secret)]
    if unset:
        told = "; ".join(f"{step.secret}, {step.why}" for step in unset)
        raise RylaError("token_required", f"Not set: {told}.", hint=f"export {unset[0].secret}=...")
    for step in steps:
        output.say(step.line)
        status = _run_one(step, {**os.environ, "RYLA_MODAL": str(settings)})
        if status != 0 and not step.secret:
            raise RylaError("deployment_failed", f"{step.line} ended with status {status}.")


def _run_one(step: _Step, variables: Mapping[str, str]) -> int:
    """Its exit status. A secret goes by a file of ours alone: arguments are everybody's to read."""
    command = [sys.executable, "-m", "modal", *step.words]
    with tempfile.TemporaryDirectory() as folder:
        if step.secret:
            path = Path(folder) / "secret.json"
            path.touch(mode=0o600)
            path.write_text(json.dumps({step.secret: os.environ[step.secret]}), encoding="utf-8")
            command += ["--from-json", str(path)]
        return subprocess.run(command, env=variables, stdout=sys.stderr, check=False).returncode
