"""Find InsightFace's model files where people really have them, and say what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import RylaError

PACK = "antelopev2"
DETECTOR = "scrfd_10g_bnkps.onnx"
RECOGNISER = "glintr100.onnx"
# The other three of the zip (landmarks, gender and age) are not used here.
REQUIRED = (DETECTOR, RECOGNISER)
SCORER_PACK = "buffalo_l"
SCORER = "w600k_r50.onnx"


def find_pack(roots: Sequence[Path]) -> Path:
    """The folder that holds antelopev2's detector and recogniser, below one of the ``insightface`` folders ``roots``.

    Accepts ``models/antelopev2`` and ``antelopev2``, and the nested ``antelopev2/antelopev2`` that the zip makes.
    Raises ``missing_model``, naming the missing file or the searched folders.
    """
    incomplete: list[tuple[Path, list[str]]] = []
    for folder in _candidates(roots, PACK):
        missing = [name for name in REQUIRED if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(REQUIRED) or any(folder.glob("*.onnx")):
            incomplete.append((folder, missing))
    if incomplete:
        folder, missing = incomplete[0]
        raise RylaError("missing_model", f"{folder} lacks {' and '.join(missing)}.", hint=f"ryla models install {PACK}")
    raise RylaError(
        "missing_model",
        f"No {PACK} ({', '.join(REQUIRED)}) in {_searched(roots, PACK)}.",
        hint=f"ryla models install {PACK}",
    )


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
