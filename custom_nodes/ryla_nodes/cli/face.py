"""``ryla face``: is it the same person? For two pictures, and with statistics for many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import settings
from ..errors import RylaError
from . import output

if TYPE_CHECKING:
    from ..identity.evaluate import Evaluation
    from ..identity.faces import FaceAnalyzer

app = typer.Typer(no_args_is_help=True, help="Compare faces, and judge folders of generated pictures.")

Threshold = Annotated[float, typer.Option(min=-1.0, max=1.0, help="Least cosine that counts as the same person.")]
Provider = Annotated[str, typer.Option(help="Where faces are analysed: auto, CPU or CUDA.")]
Demo = Annotated[
    bool,
    typer.Option("--demo", help="Use the package's own small face models, which know drawn faces only."),
]


@app.command()
def compare(
    reference: Annotated[Path, typer.Argument(help="A photo of the person.", show_default=False)],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures to compare with it.", show_default=False)],
    threshold: Threshold = 0.40,
    provider: Provider = "CPU",
    demo: Demo = False,
    json_: output.JsonOption = False,
) -> None:
    """Compare the largest face of each picture with the reference's. Exits 5 when one of them is another person."""
    from ..identity.images import read_photo
    from ..identity.similarity import Score, best, embedding, reference_embedding

    analyzer = analyzer_of(provider, demo)
    known = [reference_embedding(analyzer, read_photo(reference), str(reference))]
    scores = [
        Score(str(reference), str(path), best(known, embedding(analyzer, read_photo(path))), threshold)
        for path in pictures
    ]
    failed = [score for score in scores if not score.passed]
    if failed:
        names = ", ".join(f"{score.output} ({_shown(score.similarity)})" for score in failed)
        details: dict[str, Any] = {"scores": [_as_dict(score) for score in scores], "threshold": threshold}
        raise RylaError("another_person", f"Not the person of {reference}: {names}; {threshold} is needed.", **details)
    if output.json_mode():
        facts = {"reference": reference, "threshold": threshold, "scores": [_as_dict(score) for score in scores]}
        output.emit({**facts, "warnings": _warnings(analyzer)})
        return
    for score in scores:
        output.console.print(f"{_shown(score.similarity)}  {score.output}", markup=False, soft_wrap=True)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Sub-folders of people: reference*.jpg and the pictures to judge.")],
    threshold: Threshold = 0.40,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (.jpg or .png) here.")] = None,
    provider: Provider = "CPU",
    demo: Demo = False,
    json_: output.JsonOption = False,
) -> None:
    """Judge every picture: pass rate with its 95 % interval, mean cosine, and both against genuine photo pairs."""
    from ..identity import evaluate as evaluation

    people = evaluation.find_people(folder)
    analyzer = analyzer_of(provider, demo)
    result = evaluation.evaluate(analyzer, people, threshold)
    if sheet is not None:
        evaluation.write_contact_sheet(result, sheet)
    if output.json_mode():
        scores = [_as_dict(score) for score in result.scores]
        facts = {"threshold": threshold, "summary": _summary(result), "scores": scores, "sheet": sheet}
        output.emit({**facts, "warnings": _warnings(analyzer)})
        return
    _print(result, threshold, sheet)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the pictures; it is made.", show_default=False)],
    people: Annotated[int, typer.Option(min=1, max=20, help="How many people.")] = 3,
    json_: output.JsonOption = False,
) -> None:
    """Drawn people, each with two reference photos and two outputs: something to try the other commands on."""
    from ..identity import demo_people

    written = []
    for number in range(people):
        home = folder / f"person-{number + 1}"
        home.mkdir(parents=True, exist_ok=True)
        for name in (*demo_people.REFERENCES, *demo_people.OUTPUTS):
            written.append(home / f"{name}.png")
            demo_people.save(number, name, written[-1])
    if output.json_mode():
        output.emit({"pictures": written})
        return
    output.console.print(f"{len(written)} pictures of {people} people in {folder}", markup=False, soft_wrap=True)


def analyzer_of(provider: str, demo: bool) -> FaceAnalyzer:
    """The analyzer over the face models of this machine, or with ``demo`` over the small ones.

    Raises:
        RylaError: ``invalid_parameter``, ``insightface_missing``, ``missing_model``, ``unreadable_model``, and with
            ``demo`` ``damaged_package``.
    """
    from ..identity import runtime
    from ..identity.faces import FaceAnalyzer
    from ..models import folders, shipped
    from ..models.identity_files import find_pack

    if provider not in runtime.PROVIDERS:
        names = ", ".join(runtime.PROVIDERS)
        raise RylaError(
            "invalid_parameter", f"--provider is {provider!r}; it is one of {names}.", hint="ryla face --help"
        )
    if demo:
        shipped.require()
        roots: tuple[Path, ...] = (shipped.insightface(),)
    else:
        roots = folders.standalone(settings.load()).get("insightface")
    return FaceAnalyzer(find_pack(roots), provider, roots)


def checked_photo(photo: Path, drawn: bool) -> list[str]:
    """What is to be said of a reference photo before anything runs; where faces cannot be analysed here, why.

    Args:
        drawn: the engine may know faces by the small models only.

    Raises:
        RylaError: why no engine could use it: ``no_face``, ``face_too_small``, ``unreadable_image`` ...
    """
    if not photo.is_file():
        return []  # Binding says so, with the parameter's name.
    try:
        analyzer = face_models(drawn)
    except RylaError as error:
        return [f"The photo is not checked here: {error.message} {error.hint}".strip()]
    from ..identity.photos import examine

    _, findings = examine(analyzer, photo)
    for finding in findings:
        if finding.fatal:
            raise RylaError.registered(finding.code, "unreadable_image", finding.message, "", {"path": str(photo)})
    return [finding.message for finding in findings]


def face_models(drawn: bool) -> FaceAnalyzer:
    """The analyzer over this machine's face models; with ``drawn`` over the small ones where there are no others.

    Raises:
        RylaError: ``insightface_missing``, ``missing_model``, ``unreadable_model``.
    """
    try:
        return analyzer_of("CPU", demo=False)
    except ImportError as error:
        # Who only asks others for pictures needs no numpy.
        hint = "pip install 'ryla-nodes[identity]'"
        raise RylaError("insightface_missing", f"Faces cannot be analysed: {error}.", hint=hint) from error
    except RylaError as error:
        if error.code != "missing_model" or not drawn:
            raise
        return analyzer_of("CPU", demo=True)


def _warnings(analyzer: FaceAnalyzer) -> list[str]:
    """Why faces were analysed on the CPU where CUDA was asked for; without ``--json`` the log says it."""
    return [analyzer.remark] if analyzer.remark else []


def _shown(similarity: float | None) -> str:
    return "no face" if similarity is None else f"{similarity:.3f}"


def _as_dict(score: Any) -> dict[str, Any]:
    return {"output": score.output, "person": score.person, "similarity": score.similarity, "passed": score.passed}


def _summary(result: Evaluation) -> dict[str, Any]:
    summary = result.summary
    return {
        "total": summary.total,
        "passed": summary.passed,
        "missed": summary.missed,
        "pass_rate": summary.pass_rate,
        "interval": [summary.low, summary.high],
        "mean": summary.mean,
        "genuine_mean": summary.genuine_mean,
        "relative": summary.relative,
    }


def _print(result: Evaluation, threshold: float, sheet: Path | None) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("person", "picture", "cosine", "", box=None, pad_edge=False)
    for score in result.scores:
        verdict = Text("same", "green") if score.passed else Text("fails", "red")
        table.add_row(Text(score.person), Text(score.output), _shown(score.similarity), verdict)
    output.console.print(table)
    summary = result.summary
    rate = f"{summary.pass_rate:.1%} (95 %: {summary.low:.1%} to {summary.high:.1%})"
    output.console.print(
        f"\n{summary.passed} of {summary.total} reach {threshold}: {rate}; {summary.missed} without a face"
    )
    if summary.mean is not None:
        output.console.print(f"mean cosine {summary.mean:.3f}", end="")
        if summary.relative is not None:
            share = f"{summary.relative:.1%} of the {summary.genuine_mean:.3f} of genuine photo pairs"
            output.console.print(f", {share}", end="")
        output.console.print()
    if sheet is not None:
        output.console.print(f"contact sheet: {sheet}", markup=False, soft_wrap=True)
