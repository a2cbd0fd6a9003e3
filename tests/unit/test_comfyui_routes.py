"""What is done to a job that ComfyUI was given, before it is queued."""

from __future__ import annotations

from typing import Any

import pytest
from ryla_nodes.engines.comfyui import routes
from ryla_nodes.engines.comfyui.engine import ComfyUIEngine
from ryla_nodes.engines.protocol import running_in


def test_the_engine_is_told_of_a_job_when_it_is_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(ComfyUIEngine, "expect", lambda self, prompt: told.append(prompt))
    prompt = {"1": {"class_type": "RYLA_FluxSpeed", "inputs": {"mode": "fast", "model": ["2", 0]}}}
    with running_in(ComfyUIEngine()):
        assert routes._saved_first({"prompt": prompt, "client_id": "a"}) == {"prompt": prompt, "client_id": "a"}
        assert routes._saved_first({"client_id": "a"}) == {"client_id": "a"}
    assert told == [prompt]
