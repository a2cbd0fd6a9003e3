"""The report of an acceptance run, and how it reads as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .figures import FAIL, OPEN, PASS, Figure

VERDICTS = {PASS: "passed", FAIL: "failed", OPEN: "incomplete"}


@dataclass(frozen=True)
class Section:
    """One workflow: its figures, and the journal's lines of its samples and of the rest."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    samples: tuple[Mapping[str, Any], ...]
    others: tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        facts: what was run where: engine, version, seed, parameters, dates, the people and what is wrong with photos.
    """

    sections: tuple[Section, ...]
    facts: Mapping[str, Any]

    @property
    def figures(self) -> list[tuple[str, Figure]]:
        return [(section.name, figure) for section in self.sections for figure in section.figures]

    @property
    def state(self) -> str:
        """``fail`` when a figure misses its target, else ``not measured`` when something was missing, else ``pass``."""
        states = [figure.state for _, figure in self.figures]
        if FAIL in states:
            return FAIL
        return OPEN if any(figure.missing for _, figure in self.figures) or not states else PASS

    def summary(self) -> str:
        """One line."""
        states = [figure.state for _, figure in self.figures]
        counts = ", ".join(f"{states.count(state)} {state}" for state in (PASS, FAIL, OPEN) if states.count(state))
        return f"Acceptance {VERDICTS[self.state]}: {counts}."

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        sections = [
            {
                "workflow": section.name,
                "figures": [asdict(figure) for figure in section.figures],
                "samples": list(section.samples),
                **dict(section.others),
            }
            for section in self.sections
        ]
        return {"state": self.state, "summary": self.summary(), **self.facts, "workflows": sections}


def markdown(report: Report) -> str:
    """The report as Markdown, without pictures."""
    lines = [f"# {report.summary()}", "", *(f"* {line}" for line in told(report)), ""]
    for section in report.sections:
        lines += [f"## {section.name}", "", "| figure | target | measured | |", "| --- | --- | --- | --- |"]
        lines += [f"| {_cell(each.name)} | {_cell(each.target)} | {_cell(shown(each))} | {each.state} |"
                  for each in section.figures]  # fmt: skip
        failed = [f"* sample {number}: {line['error']['code']}: {line['error']['message']}"
                  for number, line in enumerate(section.samples, 1) if line.get("error")]  # fmt: skip
        lines += ["", *(["Samples that failed:", "", *failed, ""] if failed else [])]
    return "\n".join(lines)


def told(report: Report) -> Sequence[str]:
    """What was run, a fact a line."""
    facts = report.facts
    people = facts.get("people", {})
    given = ", ".join(f"{name} {value}" for name, value in facts["parameters"].items())
    lines = [
        f"Engine: {facts['engine']}",
        f"Began {facts['began']}, ended {facts['ended']}; seed {facts['seed']}",
        f"Parameters: {given or 'the usual ones'}",
    ]
    if facts["deaths"]:
        lines.append(f"The engine died {facts['deaths']} times and was started again.")
    if people.get("photos"):
        count = sum(len(paths) for paths in people["photos"].values())
        lines.append(f"References: {count} photos of {len(people['photos'])} people, {people['source']}")
    lines += [f"Note: {note}" for note in people.get("notes", ())]
    return lines


def shown(figure: Figure) -> str:
    """What was measured, or why it was not."""
    return f"{figure.measured if figure.measured != '-' else ''} {figure.why}".strip() or "-"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
