"""``ryla workflows`` as it is typed: what it prints, for people and for programs, and with which status it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from ryla_nodes.workflows.object_info import recorded, versions
from typed import typed

NEWEST = versions()[-1]


@pytest.fixture
def ryla(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``ryla ...`` in this process: (exit status, stdout, stderr)."""
    return typed(monkeypatch, capsys, width=160)


def of_json(result: tuple[int, str, str]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(result[1])
    return body


def test_list(ryla: Any) -> None:
    status, out, err = ryla("workflows", "list")
    assert (status, out) == (0, "")
    assert "prompt, reference_image" in err
    rows = {row["name"]: row for row in of_json(ryla("workflows", "list", "--json"))["workflows"]}
    assert rows["flux-lora"]["required"] == ["prompt", "lora_id"]


def test_list_shows_a_broken_workflow_and_the_others(
    ryla: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "workflow.toml").write_text("title = 1")
    monkeypatch.setenv("RYLA_WORKFLOWS", str(tmp_path))
    rows = {row["name"]: row for row in of_json(ryla("workflows", "list", "--json"))["workflows"]}
    assert "api.json cannot be read" in rows["mine"]["error"]
    assert "flux-dev" in rows
    status, _, err = ryla("workflows", "show", "mine")
    assert status == 7
    assert "invalid_workflow" in err


def test_show(ryla: Any) -> None:
    status, out, err = ryla("workflows", "show", "flux-dev")
    assert (status, out) == (0, "")
    for part in ("128 to 2048, step 16", "Also: num_inference_steps.", "random", 'image from "Result"', "t5xxl_fp16"):
        assert part in err
    described = of_json(ryla("workflows", "show", "flux-dev", "--json"))
    width = next(p for p in described["parameters"] if p["name"] == "width")
    assert (width["default"], width["min"], width["step"]) == (1024, 128, 16)


def test_show_an_unknown_one(ryla: Any) -> None:
    status, _, err = ryla("workflows", "show", "flux-def")
    assert status == 2
    assert 'did you mean "flux-dev"?' in err


def test_validate_asks_both_recorded_versions(ryla: Any) -> None:
    status, _, err = ryla("workflows", "validate", "flux-dev")
    assert status == 0
    for version in versions():
        assert f"ComfyUI {version} (recorded)  valid" in err
    checked = of_json(ryla("workflows", "validate", "flux-dev", "--json"))["checked"]
    assert [entry["problems"] for entry in checked] == [[], []]


def broken(tmp_path: Path, **change: Any) -> str:
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({**graph, **change}))
    return str(path)


def test_validate_a_broken_graph(ryla: Any, tmp_path: Path) -> None:
    path = broken(tmp_path)
    status, _, err = ryla("workflows", "validate", path)
    assert status == 2
    assert 'EmptyImage (node 1) input "width" is 0, below the smallest, 1' in err
    error = of_json(ryla("workflows", "validate", path, "--json"))["error"]
    assert error["code"] == "invalid_graph"
    assert error["details"]["problems"][0]["code"] == "out_of_range"


def test_validate_a_missing_class_ends_with_status_3(ryla: Any, tmp_path: Path) -> None:
    path = broken(tmp_path, **{"1": {"class_type": "Foo", "inputs": {}, "_meta": {"cnr_id": "foo-pack"}}})
    status, _, err = ryla("workflows", "validate", path)
    assert status == 3
    assert "comfy node install foo-pack" in err


def test_validate_an_editor_file(ryla: Any) -> None:
    copy = Path(__file__).resolve().parents[2] / "example_workflows" / "1 FLUX.1 Dev, text to image.json"
    status, _, err = ryla("workflows", "validate", str(copy))
    assert status == 7
    assert "Export (API)" in err


def test_validate_against_a_saved_object_info(ryla: Any, tmp_path: Path) -> None:
    saved = tmp_path / "object_info.json"
    saved.write_text(json.dumps({"KSampler": recorded(NEWEST)["KSampler"]}))
    assert ryla("workflows", "validate", "flux-dev", "--object-info", str(saved))[0] == 3
    for text in ("{", '{"KSampler": {}}', "[]"):
        saved.write_text(text)
        status, _, err = ryla("workflows", "validate", "flux-dev", "--object-info", str(saved))
        assert status == 7
        assert "invalid_object_info" in err


@pytest.fixture
def engine() -> Iterator[str]:
    """An engine's answers to the two questions that a validation asks."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(self.path.removeprefix("/object_info/"))
            body: dict[str, Any] = {name: recorded(NEWEST)[name]} if name in recorded(NEWEST) else {}
            if self.path == "/system_stats":
                body = {"system": {"comfyui_version": NEWEST}, "devices": []}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_validate_against_an_engine(ryla: Any, engine: str, tmp_path: Path) -> None:
    status, _, err = ryla("workflows", "validate", "flux-instantid", "--server", engine)
    assert status == 0
    assert f"{engine} (ComfyUI {NEWEST})  valid" in err
    assert ryla("workflows", "validate", broken(tmp_path), "--server", engine)[0] == 2


def test_validate_against_no_engine(ryla: Any) -> None:
    status, _, err = ryla("workflows", "validate", "flux-dev", "--server", "http://127.0.0.1:1")
    assert status == 4
    assert "engine_unreachable" in err
