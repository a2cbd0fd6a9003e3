"""What a graph lacks in this ComfyUI, before it is queued, and how a command is written here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ...commands import Scripts
from . import folders

_SCRIPTS = Path(__file__).resolve().parents[4] / "scripts"


def scripts(volume: Path | None) -> Scripts | None:
    """The pack's scripts and where they put models for this ComfyUI; None where only the package was installed."""
    if not (_SCRIPTS / "install_models.py").is_file():
        return None
    return Scripts(sys.executable, str(_SCRIPTS), _place(volume))


def _place(volume: Path | None) -> tuple[str, str]:
    import folder_paths

    base, models = Path(folder_paths.base_path), Path(folder_paths.models_dir)
    if volume is not None:
        return "--volume", str(volume)
    if models == base / "models" and (base / "main.py").is_file():
        return "--comfyui", str(base)
    return "--volume", str(models)


async def report(prompt: dict[str, Any], targets: list[str] | None) -> dict[str, Any] | None:
    """What ComfyUI's own checks of ``prompt`` say, without queueing it; None when nothing of ours is missing."""
    import uuid

    from ...workflows import lacking

    execution: Any = sys.modules["execution"]
    _, _, good, node_errors = await execution.validate_prompt(str(uuid.uuid4()), prompt, targets)
    if not node_errors:
        return None
    found = lacking.report(prompt, node_errors, folders.current())
    return {**found.told(), "runs": bool(good)} if found else None
