"""The page at ``/`` in a browser, before a fake engine: the form, jobs, errors, tokens, programs, themes."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Visiting, chromium, visiting
from gateway.process import ServeProcess
from gateway.served import Served, add_workflows, photo, until
from PIL import Image
from unit.fake_engine import FakeEngine

SECRET = "a-secret"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@pytest.fixture
def visit(browser: Any) -> Iterator[Visiting]:
    with visiting(browser) as opening:
        yield opening


def _process(root: Path, engine: str, **environment: str) -> ServeProcess:
    """A second gateway: a process has one job store at a time."""
    folders = {"RYLA_WORKFLOWS": str(add_workflows(root / "workflows")), "RYLA_HOME": str(root / "home")}
    named = ["--workflow", "paint", "--workflow", "portrait"]
    return ServeProcess(root / "state", ["--server", engine, *named], {**folders, **environment})


def _make(page: Any, prompt: str = "a fox") -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Make the picture").click()


def _done(page: Any) -> None:
    page.locator("#status", has_text="Done").wait_for()
    page.locator("#outcome img").wait_for()


def _fact(page: Any, name: str) -> str:
    return str(page.locator(".facts > div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text())


# --- the form ---------------------------------------------------------------------------------------------------------


def test_the_form_is_made_from_the_manifest(visit: Visiting, gateway: Served) -> None:
    page = visit(gateway.url).open()
    width = page.get_by_label("Width")
    assert [width.get_attribute(name) for name in ("min", "max", "step")] == ["64", "256", "16"]
    assert width.input_value() == "64" and page.get_by_label("Seed").input_value() == ""
    assert "Pixels. From 64 to 256, in steps of 16." in page.locator("#field-width-help").inner_text()
    assert page.get_by_label("Prompt").get_attribute("required") is not None
    page.get_by_text("More settings").click()
    assert page.get_by_label("Sampler").locator("option").all_inner_texts() == ["euler", "heun"]
    assert page.get_by_label("Guidance").input_value() == "3.5" and not page.get_by_label("Fast").is_checked()
    for control in page.locator("input, select, textarea").all():
        assert control.evaluate("each => each.labels.length") == 1
    assert page.get_by_label("Reference image").count() == 0
    page.get_by_label("Workflow").select_option("portrait")
    assert page.get_by_label("Reference image").get_attribute("type") == "file"


def test_every_value_reaches_the_engine(visit: Visiting, gateway: Served, engine: FakeEngine) -> None:
    page = visit(gateway.url).open()
    page.get_by_label("Width").fill("96")
    page.get_by_label("Seed").fill("9007199254740993")
    page.get_by_text("More settings").click()
    page.get_by_label("Sampler").select_option("heun")
    page.get_by_label("Guidance").fill("2.25")
    page.get_by_label("Fast").check()
    _make(page)
    _done(page)
    told = {name: engine.graphs[-1]["1"]["inputs"][name] for name in ("text", "width", "sampler", "guidance", "fast")}
    assert told == {"text": "a fox", "width": 96, "sampler": "heun", "guidance": 2.25, "fast": True}
    # No number of JavaScript holds this seed.
    assert engine.graphs[-1]["1"]["inputs"]["seed"] == 9007199254740993 and _fact(page, "Seed") == "9007199254740993"
    assert _fact(page, "GPU") == "CPU" and page.locator(".facts", has_text="Cost").count() == 0
    page.get_by_role("button", name="Back to the defaults").click()
    assert page.get_by_label("Width").input_value() == "64" and page.get_by_label("Seed").input_value() == ""
    page.get_by_role("button", name="Again with this seed").click()
    assert page.get_by_label("Seed").input_value() == "9007199254740993"
    assert page.get_by_label("Width").input_value() == "96" and page.get_by_label("Fast").is_checked()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "paint-9007199254740993.jpg"
    assert Image.open(download.value.path()).format == "JPEG"


def test_what_is_said_is_text_and_never_markup(visit: Visiting, gateway: Served) -> None:
    page = visit(gateway.url).open()
    evil = "<img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    _make(page, evil)
    _done(page)
    page.reload()
    page.locator("#gallery-list button").first.click()
    _done(page)
    assert evil in page.locator("#gallery-list button").first.get_attribute("aria-label")
    assert page.title() == "RYLA" and page.locator("#gallery b, #outcome b").count() == 0


def test_a_photo_is_chosen_or_dropped(visit: Visiting, gateway: Served, engine: FakeEngine) -> None:
    page = visit(gateway.url).open()
    page.get_by_label("Workflow").select_option("portrait")
    chosen = photo((40, 40))
    page.get_by_label("Reference image").set_input_files({"name": "me.png", "mimeType": "image/png", "buffer": chosen})
    assert page.get_by_role("img", name="Reference image: me.png").is_visible()
    _make(page)
    _done(page)
    assert chosen in engine.uploads.values()
    page.get_by_role("button", name="Remove").click()
    assert page.get_by_role("img", name="Reference image: me.png").count() == 0
    dropped = list(photo((48, 48)))
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "you.png", { type: "image/png" }));
            document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        dropped,
    )
    page.get_by_role("img", name="Reference image: you.png").wait_for()
    page.get_by_role("button", name="Make the picture").click()
    until(lambda: bytes(dropped) in engine.uploads.values())
    _done(page)


def test_a_lora_is_searched_for(visit: Visiting, gateway: Served, engine: FakeEngine) -> None:
    page = visit(gateway.url).open()
    page.route("**/workflows", lambda route: route.fulfill(json=_with_lora(route.fetch().json())))
    told = {"id": "anna", "family": "Flux", "trigger_word": "ohwx woman"}
    page.route("**/loras", lambda route: route.fulfill(json={"loras": [told, {"id": "ben"}]}))
    page.reload()
    field = page.get_by_role("combobox", name="LoRA id")
    field.click()
    options = page.locator(".combo [role=option]")
    assert options.all_inner_texts() == ["anna\nFlux, trigger word ohwx woman", "ben"]
    field.press_sequentially("ohwx")
    assert options.count() == 1
    field.press("ArrowDown")
    assert field.get_attribute("aria-activedescendant") == options.get_attribute("id")
    field.press("Enter")
    assert field.input_value() == "anna" and not page.locator(".combo ul").is_visible()
    assert page.locator(".told").inner_text() == "Family Flux, trigger word ohwx woman"
    assert '"lora_id": "anna"' in page.locator("#snippet").inner_text()
    field.fill("zzz")
    assert page.get_by_text("No LoRA is called so.").is_visible()
    field.press("Escape")
    assert not page.get_by_text("No LoRA is called so.").is_visible()


def _with_lora(told: dict[str, Any]) -> dict[str, Any]:
    for workflow in told["workflows"]:
        workflow["parameters"].append({"name": "lora_id", "type": "lora", "help": "A LoRA.", "default": ""})
    return told


# --- faults -----------------------------------------------------------------------------------------------------------


def test_faults_are_said_beside_their_fields(visit: Visiting, gateway: Served) -> None:
    page = visit(gateway.url).open()
    page.get_by_role("button", name="Make the picture").click()
    assert page.locator("#field-prompt-error").inner_text() == "Prompt is needed."
    assert page.evaluate("document.activeElement.id") == "field-prompt"
    page.get_by_label("Width").fill("100")
    _make(page)
    fault = page.locator(
        "#field-width-error", has_text="Width 100 is not a multiple of 16: the nearest are 96 and 112."
    )
    fault.wait_for()
    width = page.get_by_label("Width")
    assert width.get_attribute("aria-invalid") == "true" and "field-width-error" in width.get_attribute(
        "aria-describedby"
    )
    assert page.evaluate("document.activeElement.id") == "field-width"
    assert page.locator("#form-error").inner_text() == "" and page.locator("#field-prompt-error").inner_text() == ""
    width.fill("96")
    assert page.locator("#field-width-error").inner_text() == ""
    # Of a field out of sight, too.
    page.locator("#field-guidance").evaluate("each => { each.value = 99; }")
    page.get_by_role("button", name="Make the picture").click()
    page.locator("#field-guidance-error", has_text="10").wait_for()
    assert page.get_by_label("Guidance").is_visible()


def test_a_file_that_is_no_picture_is_refused_in_words(visit: Visiting, gateway: Served) -> None:
    page = visit(gateway.url).open()
    page.get_by_label("Workflow").select_option("portrait")
    field = page.get_by_label("Reference image")
    field.set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"})
    assert page.locator("#field-reference_image-error").inner_text() == "a.txt is no JPEG, PNG or WebP."
    field.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    _make(page)
    page.locator("#field-reference_image-error", has_text="damaged").wait_for()


def test_a_job_that_fails_says_why(visit: Visiting, gateway: Served, engine: FakeEngine) -> None:
    page = visit(gateway.url).open()
    engine.faults.add("node error")
    _make(page)
    page.locator("#status", has_text="It failed.").wait_for()
    assert page.locator("#outcome [role=alert] p").first.inner_text()
    page.locator("#gallery-list", has_text="failed").wait_for()


def test_a_gateway_that_is_not_ready_says_what_is_missing(visit: Visiting, tmp_path: Path) -> None:
    with _process(tmp_path, "http://127.0.0.1:9") as lonely:
        page = visit(lonely.url).open()
        banner = page.locator("#ready .banner")
        banner.wait_for()
        page.wait_for_timeout(1500)  # Until the engine was asked.
        missing = httpx.get(f"{lonely.url}/ready", trust_env=False).json()["missing"]
        page.locator("#ready code", has_text=missing[0]["fix"]).first.wait_for(timeout=30_000)
        assert missing[0]["message"] in banner.inner_text()


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_progress_and_preview_are_shown_as_they_come(visit: Visiting, gateway: Served) -> None:
    page = visit(gateway.url).open()
    told = [
        ("queued", {"position": 2}),
        ("node", {"node": "Sampler", "done": 1, "total": 5}),
        ("step", {"node": "Sampler", "step": 3, "steps": 20}),
        ("preview", {"image": _data_url()}),
    ]
    # The stream breaks off, and is taken up again by its last id.
    asked: list[str | None] = []

    def answer(route: Any) -> None:
        asked.append(route.request.headers.get("last-event-id"))
        events = told if len(asked) == 1 else []
        body = "".join(
            f"id: e-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for number, (kind, data) in enumerate(events)
        )
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/events?preview=1", answer)
    _make(page)
    page.get_by_text("Step 3 of 20").wait_for()
    bar = page.get_by_role("progressbar")
    assert bar.get_attribute("max") == "20" and bar.evaluate("each => each.value") == 3
    assert page.locator("#status").inner_text() == "At work: Sampler."
    page.get_by_role("img", name="Preview of the picture").wait_for()
    until(lambda: len(asked) > 1 or page.wait_for_timeout(50))
    assert asked[:2] == [None, "e-3"]
    page.unroute("**/events?preview=1")
    _done(page)


def _data_url() -> str:
    import base64

    return "data:image/png;base64," + base64.b64encode(photo()).decode()


def test_a_job_is_cancelled(visit: Visiting, gateway: Served, engine: FakeEngine) -> None:
    page = visit(gateway.url).open()
    engine.seconds = 20.0
    _make(page)
    page.get_by_role("button", name="Cancel").click()
    page.locator("#status", has_text="Cancelled.").wait_for()
    until(lambda: not gateway.gateway.jobs.alive)
    page.locator("#gallery-list", has_text="cancelled").wait_for()


def test_the_gallery_is_there_after_a_reload(visit: Visiting, gateway: Served, engine: FakeEngine) -> None:
    page = visit(gateway.url).open()
    for number, prompt in enumerate(("a fox", "a hare")):
        page.get_by_label("Width").fill(str(64 + 16 * number))
        _make(page, prompt)
        page.locator(f'#gallery-list button[title="paint: {prompt}"] img').wait_for()
    page.evaluate("localStorage['ryla-jobs'] = JSON.stringify(['gone', ...JSON.parse(localStorage['ryla-jobs'])])")
    page.reload()
    page.locator("#gallery-list img").nth(1).wait_for()
    names = [each.get_attribute("title") for each in page.locator("#gallery-list button").all()]
    assert names == ["paint: a hare", "paint: a fox"]
    assert len(json.loads(page.evaluate("localStorage['ryla-jobs']"))) == 2
    page.locator("#gallery-list button").nth(1).click()
    _done(page)
    assert page.get_by_label("Prompt").input_value() == "a fox" and page.get_by_label("Width").input_value() == "64"
    assert page.get_by_role("img", name="Picture of: a fox").evaluate("each => each.naturalWidth") == 8


def test_a_job_that_goes_on_is_followed_again_after_a_reload(
    visit: Visiting, gateway: Served, engine: FakeEngine
) -> None:
    page = visit(gateway.url).open()
    engine.seconds = 3.0
    _make(page)
    page.get_by_role("progressbar").wait_for()
    page.reload()
    _done(page)


def test_a_token_is_asked_for_and_kept_for_the_tab(visit: Visiting, engine: FakeEngine, tmp_path: Path) -> None:
    with _process(tmp_path, engine.url, RYLA_TOKEN=SECRET) as locked:
        page = visit(locked.url).open()
        token = page.get_by_label("Token", exact=True)
        token.fill("wrong")
        token.press("Enter")
        page.get_by_text("The gateway does not know this token.").wait_for()
        assert not page.get_by_label("Prompt").is_visible()
        token.fill(SECRET)
        token.press("Enter")
        _make(page)
        _done(page)
        assert page.locator("#outcome img").evaluate("each => each.naturalWidth") == 8
        assert not token.is_visible() and SECRET not in page.evaluate("JSON.stringify(localStorage)")
        shown = page.locator("#snippet").inner_text()
        assert "Bearer $RYLA_TOKEN" in shown and SECRET not in page.content()
        page.reload()
        page.locator("#gallery-list img").wait_for()
        page.get_by_role("link", name="API").click()
        page.get_by_text("/paint").first.wait_for()


# --- programs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
@pytest.mark.parametrize("workflow", ["paint", "portrait"])
def test_the_shown_programs_run(
    visit: Visiting, gateway: Served, engine: FakeEngine, tmp_path: Path, language: str, workflow: str
) -> None:
    tool = {"curl": "curl", "Python": sys.executable, "JavaScript": "node"}[language]
    if shutil.which(tool) is None:
        pytest.skip(f"There is no {tool}.")
    prompt = 'it\'s "a" fox, $HOME `x` \\ 100%\nand a Füchsin'
    page = visit(gateway.url).open()
    page.get_by_label("Workflow").select_option(workflow)
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Seed").fill("9007199254740993")
    page.get_by_text("More settings").click()
    page.get_by_label("Fast").check()
    if workflow == "portrait":
        page.get_by_label("Reference image").set_input_files(
            {"name": "it's me.png", "mimeType": "image/png", "buffer": photo()}
        )
        (tmp_path / "it's me.png").write_bytes(photo())
    page.get_by_label(language, exact=True).check()
    program = page.locator("#snippet").text_content()
    command = {"curl": ["sh", "-c", program], "Python": [tool, "-c", program], "JavaScript": [tool, "s.mjs"]}[language]
    (tmp_path / "s.mjs").write_text(program, encoding="utf-8")
    direct = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(command, cwd=tmp_path, env=direct, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (program, done.stderr)
    assert Image.open(io.BytesIO((tmp_path / "picture.jpg").read_bytes())).format == "JPEG"
    told = engine.graphs[-1]["1"]["inputs"]
    # A form writes each end of a line as \r\n.
    assert told["text"].replace("\r\n", "\n") == prompt and told["seed"] == 9007199254740993 and told["fast"] is True
    assert language != "curl" or shlex.split(program)[0] == "curl"


def test_a_program_is_copied(visit: Visiting, gateway: Served) -> None:
    page = visit(gateway.url, permissions=["clipboard-read", "clipboard-write"]).open()
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#snippet").text_content()


# --- how it looks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_it_fits_a_phone(visit: Visiting, gateway: Served, path: str) -> None:
    page = visit(gateway.url, viewport={"width": 390, "height": 844}).open(path)
    page.get_by_text("paint").first.wait_for(state="attached")
    if path == "/":
        page.get_by_text("More settings").click()
        _make(page, "x" * 300)
        _done(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_light_and_dark_follow_the_system(visit: Visiting, gateway: Served) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page = visit(gateway.url, color_scheme=scheme).open()
        page.get_by_label("Prompt").wait_for()
        shades[scheme] = page.evaluate(
            "['backgroundColor', 'color'].map(each => getComputedStyle(document.body)[each])"
        )
    (light, ink), (dark, chalk) = shades["light"], shades["dark"]
    assert _brightness(light) > 200 > 60 > _brightness(dark) and _brightness(ink) < 60 < 200 < _brightness(chalk)


def _brightness(colour: str) -> float:
    parts = [float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    return sum(parts) / 3


def test_the_api_s_page_shows_the_endpoints(visit: Visiting, gateway: Served) -> None:
    page = visit(gateway.url).open("/docs")
    page.get_by_text("/portrait").first.wait_for()
    assert page.get_by_text("/jobs/{job_id}/events").count()
    page.locator("#operations-about-list_loras_loras_get button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.locator(".live-responses-table", has_text="anna").first.wait_for()
