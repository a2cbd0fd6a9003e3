"""Which workflows there are, and loading one by its name."""

from __future__ import annotations

from pathlib import Path

from ..errors import RylaError
from ..settings import Settings
from ..similar import nearest
from .manifest import MANIFEST_FILE, read
from .workflow import Workflow


def shipped_root() -> Path:
    """The folder of the workflows that come with the package: inside it in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_workflows"
    return installed if installed.is_dir() else package.parents[1] / "workflows"


def available(settings: Settings) -> dict[str, Path]:
    """Every workflow by name, sorted; a folder of ``RYLA_WORKFLOWS`` hides the shipped one of the same name."""
    roots = [shipped_root()] + ([settings.workflows] if settings.workflows else [])
    found = {manifest.parent.name: manifest.parent for root in roots for manifest in root.glob(f"*/{MANIFEST_FILE}")}
    return dict(sorted(found.items()))


def load(name: str, settings: Settings) -> Workflow:
    """Load a workflow by name.

    Raises:
        RylaError: ``unknown_workflow`` with the nearest name, ``invalid_workflow`` as ``read`` does.
    """
    known = available(settings)
    if name not in known:
        near = nearest(name, known)
        suggestion = f'did you mean "{near}"?' if near else f"known: {', '.join(known) or 'none'}."
        searched = [str(root) for root in (settings.workflows, shipped_root()) if root]
        raise RylaError(
            "unknown_workflow",
            f'There is no workflow "{name}" in {" or ".join(searched)}: {suggestion}',
            workflow=name,
            nearest=near,
            known=list(known),
            searched=searched,
        )
    return read(known[name])
