"""The scenes of a sheet: from prompts to pictures, to a contact sheet with the face score under each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...batch import prompts
from ...batch.contact_sheet import Thumbnail, make
from ...batch.journal import Journal
from ...batch.naming import Claims
from ...batch.plan import plan
from ...batch.rows import Row, expand
from ...batch.runner import Planned, Summary
from ...client.results import check_target
from ...errors import RylaError
from ...identity.proportion import THRESHOLD
from ...settings import Settings
from ...sheet import Style
from ...workflows.workflow import BoundPrompt, Workflow
from .. import output
from ..run.command import refuse_misspelt, workflow_at
from ..run.engines import Choice, paints_drawings
from ..run.engines import client as client_of
from ..run.many import run_batch

_CAPTION_LINES = 3


@dataclass(frozen=True)
class Scene:
    """One scene: its prompt, and what became of it. ``score`` is the face score, None where there is none."""

    prompt: str
    seed: int | None
    file: Path | None
    score: float | None
    error: Mapping[str, Any] | None

    @property
    def failed(self) -> bool:
        """Not made, or of another person as far as the score tells."""
        return self.file is None or (self.score is not None and self.score < THRESHOLD)

    @property
    def verdict(self) -> str:
        """A word or two."""
        if self.file is None:
            return f"failed: {self.error['code']}" if self.error else "failed"
        if self.score is None:
            return "no score"
        return f"{self.score:.3f}{' another person?' if self.failed else ''}"


@dataclass(frozen=True)
class Asked:
    """One command.

    Attributes:
        given: parameters of the workflow as they were typed.
        scenes: a file, or the name of a shipped set; "" for the usual one.
    """

    workflow: str
    given: Mapping[str, str]
    scenes: str
    out: Path
    timeout: float
    overwrite: bool
    settings: Settings


def make_sheet(asked: Asked, choice: Choice, options: Sequence[str]) -> None:
    """Check the photo, run the scenes that are not made yet, draw the sheet, say what was made.

    Args:
        options: the command's own, to tell a misspelt one.

    Raises:
        RylaError: any failure; ``batch_incomplete`` when some scenes failed: the sheet is written all the same.
    """
    check_target(asked.out)
    with client_of(choice, asked.settings) as client:
        drawn = paints_drawings(client)
        workflow = workflow_at(choice, asked.workflow, asked.settings)
        refuse_misspelt(workflow, asked.given, options)
        texts = prompts.choose(asked.scenes, prompts.SCENES, drawn=drawn)
        warnings = _check_photo(asked.given, drawn)
        work = _Work(workflow, asked, texts)
        summary, planned, lines = work.run(client, asked.timeout)
    made = [_scene(each, summary, lines) for each in planned]
    _draw(made, asked.given.get("reference_image"), asked.out)
    _report(made, asked.out, work.journal, warnings)


def _check_photo(given: Mapping[str, str], drawn: bool) -> list[str]:
    """What is to be said of the reference photo; where faces cannot be analysed here, the engine decides.

    Raises:
        RylaError: ``no_face``, ``face_too_small``, ``unreadable_image``, ``image_too_large``.
    """
    photo = given.get("reference_image")
    if not photo:
        return []
    from ..face import checked_photo

    remarks = checked_photo(Path(photo), drawn)
    for remark in remarks:
        output.say(f"warning: {remark}")
    return remarks


class _Work:
    """The scenes as a batch; the journal is beside the pictures."""

    def __init__(self, workflow: Workflow, asked: Asked, texts: Sequence[str]) -> None:
        self._workflow, self._settings = workflow, asked.settings
        self._folder = asked.out.with_suffix("")
        self.journal = self._folder / "results.jsonl"
        self._rows = expand(workflow.name, [{"prompt": text} for text in texts], asked.given)
        self._claims = Claims([self.journal, asked.out], overwrite=asked.overwrite)

    def run(self, client: Any, timeout: float) -> tuple[Summary, list[Planned], dict[str, dict[str, Any]]]:
        """Run what is not made yet; with the last line of each row in the journal."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"The folder {self._folder} cannot be made: {error.strerror}."
            raise RylaError("output_not_writable", message, path=str(self._folder)) from error
        with Journal(self.journal, self._workflow.name) as journal:
            planned = plan(self._workflow, self._rows, self._place, journal, self._claims, self._settings)
            summary = run_batch(client, journal, self._claims, planned, timeout)
            return summary, planned, dict(journal.last)

    def _place(self, row: Row, prompt: BoundPrompt) -> Path:
        return self._folder / f"{row.index:02}"


def _scene(planned: Planned, summary: Summary, lines: Mapping[str, Mapping[str, Any]]) -> Scene:
    files = summary.files.get(planned.row.index)
    line = lines.get(planned.row.key, {})
    error = line.get("error") if files is None else None
    score = line.get("face_similarity") if files is not None else None
    return Scene(str(planned.row.values["prompt"]), planned.prompt.seed, files[0] if files else None, score, error)


def _draw(made: Sequence[Scene], photo: str | None, out: Path) -> None:
    """The reference first, then every scene; a place stays empty where one failed."""
    tiles = [Thumbnail(Path(photo), "the reference")] if photo else []
    tiles += [
        Thumbnail(scene.file or Path(), f"{number}  {scene.verdict}\n{scene.prompt}", scene.failed)
        for number, scene in enumerate(made, 1)
    ]
    make(tiles, out, lines=_CAPTION_LINES, style=Style())


def _report(made: Sequence[Scene], out: Path, journal: Path, warnings: Sequence[str]) -> None:
    absent = [number for number, scene in enumerate(made, 1) if scene.file is None]
    others = [number for number, scene in enumerate(made, 1) if scene.file is not None and scene.failed]
    told = [_as_dict(scene) for scene in made]
    facts: dict[str, Any] = {"sheet": str(out), "results": str(journal), "scenes": told, "warnings": list(warnings)}
    if not output.json_mode():
        for number, scene in enumerate(made, 1):
            output.say(f"{number:>3}  {scene.verdict:<28}  {scene.prompt}")
        output.say(f"{out}: {len(made) - len(absent)} of {len(made)} scenes.")
        if others:
            output.say(f"Below {THRESHOLD:.2f}, so perhaps another person: {_listed(others)}. Try --best-of 4.")
    if absent:
        error = next((scene.error for scene in made if scene.error), None)
        reason = f" The first: {error['message']}" if error else ""
        message = f"{len(absent)} of {len(made)} scenes failed ({_listed(absent)}); the sheet is {out}.{reason}"
        raise RylaError("batch_incomplete", message, **facts)
    if output.json_mode():
        output.emit({**facts, "below": others})


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _as_dict(scene: Scene) -> dict[str, Any]:
    file = str(scene.file) if scene.file else None
    error = {"error": dict(scene.error)} if scene.error else {}
    return {"prompt": scene.prompt, "file": file, "seed": scene.seed, "face_similarity": scene.score,
            "failed": scene.failed, **error}  # fmt: skip
