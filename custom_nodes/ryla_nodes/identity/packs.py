"""Find InsightFace's model files where people really have them, and say what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import RylaError

PACK = "antelopev2"
DETECTOR = "scrfd_10g_bnkps.onnx"
RECOGNISER = "glintr100.onnx"
REQUIRED = (DETECTOR, RECOGNISER)
UNUSED = ("1k3d68.onnx", "2d106det.onnx", "genderage.onnx")
"""The other three files of the pack: landmarks, gender and age."""
SCORER_PACK = "buffalo_l"
SCORER = "w600k_r50.onnx"


def find_pack(roots: Sequence[Path]) -> Path:
    """The folder that holds antelopev2's detector and recogniser, below one of the ``insightface`` folders ``roots``.

    Accepts ``models/antelopev2`` and ``antelopev2``, and the nested ``antelopev2/antelopev2`` that the zip makes.
    Raises ``missing_model``, naming which of the five files is missing in which folder, or the searched folders.
    """
    incomplete: list[Path] = []
    for folder in _candidates(roots, PACK):
        missing = [name for name in REQUIRED if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(REQUIRED) or any(folder.glob("*.onnx")):
            incomplete.append(folder)
    if incomplete:
        raise RylaError("missing_model", " ".join(map(_lacking, incomplete)), hint=f"ryla models install {PACK}")
    raise RylaError(
        "missing_model",
        f"No {PACK} ({', '.join(REQUIRED)}) in {_searched(roots, PACK)}.",
        hint=f"ryla models install {PACK}",
    )


def _lacking(folder: Path) -> str:
    needed, unused = ([name for name in names if not (folder / name).is_file()] for names in (REQUIRED, UNUSED))
    aside = f" ({', '.join(unused)} too, but nothing here reads those)" if unused else ""
    return f"{folder} lacks {' and '.join(needed)}{aside}."


def find_scorer(roots: Sequence[Path]) -> Path:
    """``w600k_r50.onnx``, the recogniser that similarity is scored with. Raises ``missing_model``."""
    folders = (*_candidates(roots, SCORER_PACK), *roots)
    for folder in folders:
        if (folder / SCORER).is_file():
            return folder / SCORER
    raise RylaError(
        "missing_model",
        f"No {SCORER}, the recogniser for scoring, in {_searched(roots, SCORER_PACK)}.",
        hint=f"ryla models install {SCORER_PACK}-w600k_r50",
    )


def _candidates(roots: Sequence[Path], pack: str) -> Iterator[Path]:
    for root in roots:
        for folder in (root / "models" / pack, root / pack):
            yield folder
            yield folder / pack


def _searched(roots: Sequence[Path], pack: str) -> str:
    return ", ".join(str(root / "models" / pack) for root in roots) or "any insightface folder (none is configured)"
