"""The page at ``/`` as it is used: ``ryla serve`` with the embedded engine, and a keyboard, nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import httpx
from browser import chromium, visiting
from gateway.process import ServeProcess
from PIL import Image

PROMPT = "mira, a drawn face, mint background"


def _tab_to(page: Any, wanted: str) -> None:
    """Press Tab until ``wanted`` (an element's id, or its text) has the focus, and see that the focus shows."""
    told = "(each => [each.id, each.textContent, getComputedStyle(each).outlineStyle])(document.activeElement)"
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        identity, text, outline = page.evaluate(told)
        assert outline == "solid", f"the focus on {identity or text} does not show"
        if wanted in (identity, text):
            return
        seen.append(identity or text)
    raise AssertionError(f"no way to {wanted}: {seen}")


def test_a_picture_by_keyboard_alone(tmp_path: Path, tiny_home: Path) -> None:
    environment = {"RYLA_HOME": str(tiny_home), "OMP_NUM_THREADS": "1"}
    serve = ServeProcess(tmp_path / "state", ["--workflow", "flux-dev", "--workflow", "flux-lora"], environment)
    with chromium() as browser, serve as gateway, visiting(browser) as visit:
        gateway.until_ready()
        page = visit(gateway.url).open()
        page.locator("#field-prompt").wait_for()
        _tab_to(page, "workflow")
        page.keyboard.type("FLUX.1 Dev with a ch")
        page.locator("#summary", has_text="LoRA").wait_for()
        _tab_to(page, "field-prompt")
        page.keyboard.type(PROMPT)
        _tab_to(page, "field-lora_id")
        page.keyboard.type("mir")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.locator(".told", has_text="trigger word mira").wait_for()
        for name, value in (("width", "256"), ("height", "256"), ("steps", "4")):
            _tab_to(page, f"field-{name}")
            page.keyboard.press("Control+A")
            page.keyboard.type(value)
        _tab_to(page, "field-seed")
        page.keyboard.type("7")
        _tab_to(page, "Make the picture")
        page.keyboard.press("Enter")
        page.locator("#outcome img").wait_for(timeout=120_000)
        assert page.locator("#outcome img").evaluate("each => [each.naturalWidth, each.naturalHeight]") == [256, 256]
        facts = page.locator(".facts").inner_text()
        assert "mira" in facts and "\n7" in facts and "Time on the engine" in facts
        job = page.locator("#gallery-list button").get_attribute("data-id")
        told = httpx.get(f"{gateway.url}/jobs/{job}", trust_env=False).json()
        assert told["state"] == "succeeded" and told["lora_used"] and told["parameters"]["steps"] == 4
        picture = httpx.get(f"{gateway.url}/jobs/{job}/result", trust_env=False)
        assert Image.open(io.BytesIO(picture.content)).size == (256, 256)
        _tab_to(page, "again")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "field-prompt"
