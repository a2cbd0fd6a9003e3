"""An acceptance run from its command to its report: choose the engine, check what was asked, measure, write, judge."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...acceptance import files, options, people
from ...acceptance.bench import Bench, Supervised
from ...acceptance.figures import FAIL, OPEN, Figures
from ...acceptance.journal import Journal
from ...acceptance.options import Options
from ...acceptance.report import Report, Section
from ...acceptance.run import Run
from ...batch import prompts
from ...client import Client
from ...client.async_client import bound
from ...client.comfyui_process import ComfyUIProcess, EmbeddedProcess
from ...engines import embedded
from ...errors import RylaError
from ...models import folders
from ...models.workspace import python_of
from ...settings import Settings
from ...workflows.manifest import available
from ...workflows.workflow import Workflow
from .. import output
from ..face import face_models
from ..run.command import workflow_at
from ..run.engines import EMBEDDED, OF_OURS, Choice, arguments_of, require_one, servers_of
from ..run.engines import client as client_of
from .view import shown

DRAWN_SIZE = "256"
DRAWN_LORA = "mira"
_ONLY_DRAWN = "The people are drawn, and only the small face models know them: --references takes photos of real ones."
_SEEDS = 2**31


@dataclass(frozen=True)
class Asked:
    """One command; see ``options.Options``."""

    workflows: tuple[str, ...]
    given: Mapping[str, str]
    out: Path
    samples: int
    references: Path | None
    loras: tuple[str, ...]
    prompts: str
    first_seed: int | None
    timeout: float
    settings: Settings


def conduct(asked: Asked, choice: Choice) -> None:
    """Measure what is not measured yet, write the report, and judge.

    Raises:
        RylaError: any failure; ``acceptance_failed`` and ``acceptance_incomplete`` after the report is written.
    """
    require_one(choice)
    began = time.strftime("%Y-%m-%d %H:%M:%S %z")
    with Journal(asked.out / "journal.jsonl") as journal, _bench(choice, asked.settings) as bench:
        versions = tuple(journal.run.get("versions") or ()) or bench.versions()
        drawn = bool(versions) and versions[0].endswith(EMBEDDED)
        wanted, persons = _options(asked, choice, drawn, journal)
        facts = {"seed": wanted.seed, "began": began, "versions": list(versions), "samples": wanted.samples}
        journal.begin(wanted.digest(), facts)
        for note in persons.notes:
            output.say(f"note: {note}")
        with shown(wanted, bench.ours) as on_step:
            Run(wanted, bench, journal, on_step).run()
        report = _report(wanted, persons, journal, _described(choice, versions), asked.references)
    _judge(report, files.write(report, asked.out))


@contextmanager
def _bench(choice: Choice, settings: Settings) -> Iterator[Bench]:
    """The engine: one that is there, or one of ours that can be restarted."""
    if choice.start is None:
        servers: tuple[str, ...] = ()
        if not choice.gateway:
            servers, _ = servers_of(choice, settings)
        if choice.gateway or servers:
            with client_of(Choice(servers, gateway=choice.gateway), settings) as client, Bench(client, None) as bench:
                yield bench
            return
    with Bench(None, _ours(choice, settings)) as bench:
        yield bench


def _ours(choice: Choice, settings: Settings) -> Supervised:
    def client(url: str) -> Client:
        return Client(url, limits=OF_OURS, settings=settings)

    if choice.start is None:
        embedded.require()
        output.say("Engine: embedded, in a process of its own")
        process = EmbeddedProcess(settings.home)
        return Supervised(process, client, lambda: folders.standalone(settings))
    home = choice.start.expanduser().absolute()
    output.say(f"Engine: ComfyUI in {home}")
    comfyui = ComfyUIProcess(home, choice.python or python_of(home), arguments=arguments_of(choice))
    return Supervised(comfyui, client, lambda: folders.of_comfyui(home).merged(folders.standalone(settings)))


def _options(asked: Asked, choice: Choice, drawn: bool, journal: Journal) -> tuple[Options, people.People]:
    names = asked.workflows or tuple(available(asked.settings))
    workflows = tuple(workflow_at(choice, name, asked.settings) for name in dict.fromkeys(names))
    options.require(asked.samples, workflows, asked.given)
    photos, loras = any(map(options.needs_photo, workflows)), any(map(options.needs_lora, workflows))
    options.require_used("a photo", "--references", workflows, used=photos or asked.references is None)
    options.require_used("a LoRA", "--lora-id", workflows, used=loras or not asked.loras)
    given = dict(asked.given)
    if drawn:
        # What the embedded engine's own models draw best.
        given = {"width": DRAWN_SIZE, "height": DRAWN_SIZE, **given}
    persons = people.NOBODY
    if photos:
        found = people.find(asked.references) if asked.references else people.drawn(asked.out / "people")
        persons = people.examined(found, lambda: face_models(drawn or asked.references is None))
        if not drawn and asked.references is None:
            persons = replace(persons, notes=(*persons.notes, _ONLY_DRAWN))
    seed = asked.first_seed
    if seed is None:
        seed = int(journal.run["seed"]) if "seed" in journal.run else secrets.randbelow(_SEEDS)
    wanted = Options(
        workflows=workflows,
        prompts={name.name: prompts.choose(asked.prompts, name.name, drawn=drawn) for name in workflows},
        given=given,
        samples=asked.samples,
        loras=asked.loras or ((DRAWN_LORA,) if drawn else ()),
        people=persons.photos,
        seed=seed,
        out=asked.out,
        timeout=asked.timeout,
        settings=asked.settings,
    )
    _require_whole(wanted)
    return wanted, persons


def _require_whole(wanted: Options) -> None:
    """Check what every sample is given before the first is run.

    Raises:
        RylaError: ``missing_parameter`` where a workflow has no prompts or no LoRA; what binding raises.
    """
    for workflow in wanted.workflows:
        if not wanted.prompts[workflow.name]:
            message = f"No prompts are shipped for {workflow.name}."
            raise RylaError("missing_parameter", message, hint="Give a file of yours: --prompts FILE")
        if options.needs_lora(workflow) and not wanted.loras:
            message = f"{workflow.name} needs a LoRA to be measured with."
            hint = "Give --lora-id, or name the workflows that you want: ryla loras list"
            raise RylaError("missing_parameter", message, hint=hint)
        for number in range(1, wanted.samples + 1):
            bound(workflow, wanted.values(workflow, number), wanted.settings)


def _described(choice: Choice, versions: Sequence[str]) -> str:
    version = ", ".join(versions) or "of unknown version"
    if choice.gateway:
        return f"gateway, engines {version}"
    return f"embedded ({versions[0]})" if versions and versions[0].endswith(EMBEDDED) else f"ComfyUI {version}"


def _report(wanted: Options, persons: people.People, journal: Journal, engine: str, references: Path | None) -> Report:
    lines = journal.lines
    sections = []
    for workflow in wanted.workflows:
        figures = Figures(workflow, lines, wanted.samples, persons.facts(), wanted.out)
        sections.append(Section(workflow.name, workflow.title, tuple(figures.all()), tuple(figures.samples),
                                _others(workflow, lines)))  # fmt: skip
    facts = {
        "engine": engine,
        "began": journal.run["began"],
        "ended": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "seed": wanted.seed,
        "parameters": dict(wanted.given),
        "deaths": sum(bool(line.get("died")) for line in lines.values()),
        "people": {**persons.facts(), "source": f"from {references}" if references else "drawn"},
    }
    return Report(tuple(sections), facts)


def _others(workflow: Workflow, lines: Mapping[str, Any]) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    keys = {"at_once": "at once", "lora_off": "LoRA off", "restart": "after a restart"}
    return tuple(
        (label, lines[f"{key}/{workflow.name}"]) for key, label in keys.items() if f"{key}/{workflow.name}" in lines
    )


def _judge(report: Report, paths: Mapping[str, str]) -> None:
    facts: dict[str, Any] = {"state": report.state, "report": dict(paths)}
    if not output.json_mode():
        for name, figure in report.figures:
            measured = figure.why if figure.state == OPEN else figure.measured
            output.say(f"{figure.state:<12}  {name:<15}  {figure.name:<38}  {figure.target:<14}  {measured}")
        output.say(f"{paths['html']}, {paths['md']}, {paths['json']}")
    told = [{"workflow": name, "name": figure.name, "target": figure.target, "measured": figure.measured,
             "state": figure.state, "why": figure.why, **figure.facts} for name, figure in report.figures]  # fmt: skip
    if report.state == FAIL:
        missed = ", ".join(f"{figure.name} of {name}" for name, figure in report.figures if figure.state == FAIL)
        raise RylaError("acceptance_failed", f"{report.summary()} Missed: {missed}.", figures=told, **facts)
    if report.state == OPEN:
        why = next((figure.why for _, figure in report.figures if figure.missing), "nothing was measured")
        raise RylaError("acceptance_incomplete", f"{report.summary()} {why}", figures=told, **facts)
    if output.json_mode():
        output.emit({"summary": report.summary(), **facts, "figures": told})
    else:
        output.say(report.summary())
