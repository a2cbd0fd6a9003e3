"""The nodes in the editor's other languages, by each route into ComfyUI."""

from __future__ import annotations

import json
from typing import Any

import pytest
from comfyui.conftest import StartComfyUI
from comfyui.editor.conftest import Edit
from comfyui.process import REPO, ComfyUI

LANGUAGES = ("de", "en", "es", "fr", "ja", "ko", "zh")
_SHOWN = """(type) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    const said = {
        title: node.title,
        inputs: Object.fromEntries(node.inputs.map((each) => [each.name, each.localized_name ?? each.label])),
        outputs: node.outputs.map((each) => each.localized_name ?? each.label ?? each.name),
        widgets: Object.fromEntries((node.widgets ?? []).map((each) => [each.name, each.label])),
        tooltips: Object.fromEntries((node.widgets ?? []).map((each) => [each.name, each.tooltip])),
    };
    app.graph.remove(node);
    return said;
}"""


def of(language: str) -> Any:
    return json.loads((REPO / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_every_language_is_served(server: ComfyUI) -> None:
    served = server.get("/i18n")
    for language in LANGUAGES:
        assert {key: value for key, value in served[language]["nodeDefs"].items() if key.startswith("RYLA_")} == of(
            language
        )


@pytest.mark.parametrize("language", ["zh", "ja", "fr"])
def test_the_editor_shows_a_language(edit: Edit, start_comfyui: StartComfyUI, language: str) -> None:
    server = start_comfyui(route="clone")
    try:
        editor = edit(server, {"Comfy.Locale": language})
        editor.settle(2)
        for kind in ("RYLA_FluxLoader", "RYLA_FaceSimilarity"):
            shown, wanted = editor.js(_SHOWN, kind), of(language)[kind]
            assert shown["title"] == wanted["display_name"]
            for name, entry in wanted["inputs"].items():
                assert entry["name"] in (shown["inputs"].get(name), shown["widgets"].get(name)), name
            assert shown["outputs"] == [entry["name"] for entry in wanted["outputs"].values()]
    finally:
        server.http.post("/api/settings", json={"Comfy.Locale": "en"}).raise_for_status()
