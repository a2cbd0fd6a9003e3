"""``report.html``: figures and pictures in one file, which opens anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import RylaError
from ..pictures import rgb
from .figures import FAIL, OPEN, PASS, TOLD, Figure
from .report import Report, Section, shown, told

_SIDE = 176
_QUALITY = 82
_KINDS = {PASS: "pass", FAIL: "fail", OPEN: "open", TOLD: "told"}
_STYLE = """
:root { color-scheme: light dark; --line: #8885; --pass: #2a8f4f; --fail: #d0342c; --open: #9a7400; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td:last-child { white-space: nowrap; font-weight: 600; }
.pass { color: var(--pass); } .fail { color: var(--fail); } .open { color: var(--open); }
.pictures { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(11rem, 42%), 1fr)); }
figure { margin: 0; font-size: 12px; line-height: 1.35; } figure.failed figcaption b { color: var(--fail); }
figure img, .none { width: 100%; aspect-ratio: 1; object-fit: contain; background: #8881; display: block; }
.none { display: grid; place-items: center; border: 1px dashed var(--fail); box-sizing: border-box; }
@media (max-width: 40rem) { th:nth-child(2), td:nth-child(2) { display: none; } }
"""


def html(report: Report, folder: Path) -> str:
    """The page; ``folder`` holds the pictures that the journal's lines name."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in told(report))
    sections = "".join(_section(section, folder) for section in report.sections)
    title = escape(report.summary())
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = f'<h1 class="{_KINDS[report.state]}">{title}</h1><ul>{lines}</ul>{sections}{_photos(report)}'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>\n'


def _section(section: Section, folder: Path) -> str:
    rows = "".join(map(_row, section.figures))
    samples = "".join(_sample(line, f"{number}", folder) for number, line in enumerate(section.samples, 1))
    others = "".join(_other(name, line, folder) for name, line in section.others)
    head = "<tr><th>figure<th>target<th>measured<th></tr>"
    return (
        f"<h2>{escape(section.name)}</h2><p>{escape(section.title)}</p><table>{head}{rows}</table>"
        f'<div class="pictures">{samples}{others}</div>'
    )


def _row(figure: Figure) -> str:
    cells = (escape(figure.name), escape(figure.target), escape(shown(figure)))
    kind = _KINDS[figure.state]
    return f'<tr><td>{"<td>".join(cells)}<td class="{kind}">{escape(figure.state)}</tr>'


def _other(name: str, line: Mapping[str, Any], folder: Path) -> str:
    jobs = line.get("jobs")
    if jobs:
        return "".join(_sample(job, f"at once, {number}", folder) for number, job in enumerate(jobs, 1))
    return _sample(line, name.replace("_", " "), folder)


def _sample(line: Mapping[str, Any], label: str, folder: Path) -> str:
    error, score = line.get("error"), line.get("face_similarity")
    facts = [f"{line['seconds']:.1f} s" if "seconds" in line else ""]
    facts += [f"face {score:.3f}" if score is not None else "", str(line.get("person") or line.get("lora_id") or "")]
    caption = f"<b>{escape(label)}</b> {escape(', '.join(filter(None, facts)))}<br>"
    caption += escape(str(line.get("prompt_used") or line.get("prompt") or ""))
    if error:
        caption = f"{caption}<br><b>{escape(error['code'])}</b> {escape(error['message'])}"
    picture = _picture(folder / str(line["file"])) if line.get("file") else ""
    shape = f'<img src="{picture}" alt="">' if picture else '<div class="none">no picture</div>'
    return f'<figure class="{"failed" if error else "made"}">{shape}<figcaption>{caption}</figcaption></figure>'


def _photos(report: Report) -> str:
    photos = report.facts.get("people", {}).get("photos", {})
    if not photos:
        return ""
    figures = "".join(
        f'<figure><img src="{_picture(Path(path))}" alt=""><figcaption><b>{escape(name)}</b> {escape(Path(path).name)}'
        "</figcaption></figure>"
        for name, paths in photos.items()
        for path in paths
    )
    return f'<h2>Reference photos</h2><div class="pictures">{figures}</div>'


def _picture(path: Path) -> str:
    """A small copy as a data URL; "" for a file that is gone."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (_SIDE * 2, _SIDE * 2))
            small = rgb(image)
    except (OSError, SyntaxError, ValueError, RylaError):
        return ""
    small.thumbnail((_SIDE * 2, _SIDE * 2))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
