"""Containers on Modal that cannot start: what is told of them.

Apart from those that can: of the job store there is one in a process.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ryla_nodes.cli.deploy.modal_host import Container
from ryla_nodes.cli.deploy.modal_plan import ModalPlan
from ryla_nodes.errors import RylaError


def started(plan: ModalPlan, comfyui: Path, state: Path) -> None:
    async def nothing() -> None:
        return

    async def work() -> None:
        container = Container(plan, comfyui, state, nothing)
        try:
            await container.start()
        finally:
            await container.stop()

    asyncio.run(work())


def test_without_a_token_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RYLA_TOKEN", raising=False)
    monkeypatch.setenv("RYLA_VOLUME_REFRESH", "")
    with pytest.raises(RylaError, match="secret ryla has no RYLA_TOKEN") as refused:
        started(ModalPlan(), tmp_path, tmp_path)
    assert refused.value.code == "token_required" and "modal secret create ryla" in refused.value.hint


def test_a_comfyui_that_does_not_start_tells_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RYLA_TOKEN", "secret")
    monkeypatch.setenv("RYLA_VOLUME_REFRESH", "")
    comfyui = tmp_path / "ComfyUI"
    for name in ("comfy", "comfy_extras", ".venv/bin"):
        (comfyui / name).mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (comfyui / name).touch()
    (comfyui / ".venv/bin/python").write_text(
        "#!/bin/sh\necho loading\necho 'RuntimeError: Found no NVIDIA driver on your system.' >&2\nexit 1\n"
    )
    (comfyui / ".venv/bin/python").chmod(0o755)
    plan = ModalPlan(workflows=("flux-dev",), start_within=600)  # It does not take so long to know.
    with pytest.raises(RylaError, match="Found no NVIDIA driver") as failed:
        started(plan, comfyui, tmp_path / "state")
    assert failed.value.code == "engine_unreachable" and "ended with status 1" in failed.value.message
