"""What a node lacks is told before the job is queued, each message with a command that works as it stands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lora_files
import pytest
import tiny_flux
from comfyui.conftest import StartComfyUI
from comfyui.process import REPO, ComfyUI
from ryla_nodes.client import failures
from ryla_nodes.client.failures import Subject

PACKS = (Path(__file__).parent / "packs" / "ryla_test_analyzer.py",)
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}


@pytest.fixture
def server(start_comfyui: StartComfyUI) -> ComfyUI:
    """A fresh ComfyUI with a clone: no model, no InsightFace."""
    return start_comfyui(route="clone", packs=PACKS)


def link(name: str, slot: int = 0) -> list[Any]:
    return [name, slot]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def shipped(name: str) -> dict[str, Any]:
    return dict(json.loads((REPO / "workflows" / name / "api.json").read_text()))


def encoded(clip: list[Any]) -> dict[str, Any]:
    """An output that needs ``clip``, and nothing else."""
    return {"text": node("CLIPTextEncode", text="x", clip=clip), "out": node("PreviewAny", source=["text", 0])}


FLUX = {"model": "auto", "weight_dtype": "default", "text_encoder": "auto"}
LOADER = node("RYLA_FluxLoader", **FLUX)
LACKING: dict[str, tuple[dict[str, Any], str, str]] = {
    "FLUX": (LOADER, "flux1-dev.safetensors", "flux-dev"),
    "FLUX by name": (node("RYLA_FluxLoader", **{**FLUX, "model": "flux1-dev-fp8.safetensors"}), "fp8", "flux1-dev-fp8"),
    "its encoder": (
        node("RYLA_FluxLoader", **{**FLUX, "text_encoder": "t5xxl_fp8_e4m3fn"}),
        "t5xxl_fp8_e4m3fn.safetensors",
        "t5xxl_fp8_e4m3fn",
    ),
    "SDXL": (node("RYLA_SDXLLoader", checkpoint="auto"), "RealVisXL_V5.0_fp16.safetensors", "realvisxl-v5"),
    "SDXL by name": (node("RYLA_SDXLLoader", checkpoint="sd_xl_base_1.0.safetensors"), "sd_xl_base", "sdxl-base"),
}


def refused(server: ComfyUI, graph: Mapping[str, Any], name: str) -> str:
    """What the node ``name`` said, once; nothing was queued."""
    answer = server.submit(graph)
    assert answer.status_code == 400, answer.text
    [error] = answer.json()["node_errors"][name]["errors"]
    assert not any(server.get("/queue").values())
    return str(error["details"])


def commands(told: str) -> list[str]:
    """The commands of a message; each runs as it stands."""
    found = [line.rpartition(" Next: ")[2].rpartition(" [")[0] for line in told.splitlines()]
    for command in found:
        asked = "--dry-run" if " install --volume " in command else "--help"
        done = subprocess.run(f"{command} {asked}", shell=True, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, (command, done.stderr)
    return found


@pytest.mark.parametrize("case", LACKING)
def test_a_loader_names_its_files_and_a_command_that_runs(server: ComfyUI, case: str) -> None:
    loader, file, model = LACKING[case]
    told = refused(server, {"loader": loader, **encoded(link("loader", 1))}, "loader")
    [command] = commands(told)
    assert file in told and str(server.base / "models") in told
    script = server.base / "custom_nodes" / "ryla-nodes" / "scripts" / "install_models.py"
    assert command.startswith(f"{server.install.python} {script} install --volume {server.base / 'models'} ")
    assert model in command.split()


def test_instantid_names_both_of_its_files(server: ComfyUI) -> None:
    graph = shipped("sdxl-instantid")
    answer = server.submit(graph).json()["node_errors"]
    told = answer["2"]["errors"][0]["details"]
    assert len(answer["2"]["errors"]) == 1
    assert "ip-adapter.bin" in told and "instantid/diffusion_pytorch_model.safetensors" in told
    assert [command.split()[-1] for command in commands(told)] == ["instantid-adapter", "instantid-controlnet"]


def test_face_nodes_without_insightface_name_it_and_their_models(server: ComfyUI) -> None:
    analyzer, score = (server.submit(shipped("sdxl-instantid")).json()["node_errors"][key] for key in ("4", "13"))
    told = analyzer["errors"][0]["details"]
    assert "InsightFace, which the face nodes need, is not installed" in told and "antelopev2" in told
    pip, install = commands(told)
    assert pip == f"{server.install.python} -m pip install 'insightface>=2.0'"
    assert install.endswith(" antelopev2")
    [scorer] = commands(score["errors"][0]["details"])
    assert scorer.endswith(" buffalo_l-w600k_r50")


def test_one_answer_has_everything_and_the_runner_makes_one_command_of_it(server: ComfyUI) -> None:
    graph = shipped("flux-instantid")
    answer = server.submit(graph)
    told = failures.refusal(Subject("1", server.url, graph, ()), answer.status_code, answer.json())
    assert told.code in ("missing_model", "insightface_missing")  # That of the first node in its answer.
    names = "flux-dev", "realvisxl-v5", "instantid-adapter", "instantid-controlnet", "antelopev2", "buffalo_l-w600k_r50"
    pip, _, install = told.hint.partition("; then: ")
    assert pip.endswith("-m pip install 'insightface>=2.0'")
    assert install.startswith("ryla models install ") and sorted(install.split()[3:]) == sorted(names)
    for file in ("flux1-dev.safetensors", "ae.safetensors", "w600k_r50.onnx", "ip-adapter.bin"):
        assert file in told.message


def test_the_editors_list_queues_nothing(server: ComfyUI) -> None:
    told = server.http.post("/ryla/missing", json={"prompt": shipped("flux-instantid")}).json()
    assert len(told["models"]) == 9 and len(told["commands"]) == 2 and not told["runs"]
    whole = {"image": EMPTY, "out": node("RYLA_SaveImage", images=link("image"), filename_prefix="x", format="png",
                                         quality=90, metadata=False)}  # fmt: skip
    assert server.http.post("/ryla/missing", json={"prompt": whole}).json() is None
    assert not any(server.get("/queue").values())


@pytest.mark.parametrize("body", ["[]", '"x"', "{", '{"prompt": 3}', '{"prompt": {"1": 2}}', ""])
def test_a_body_that_is_no_graph_is_refused_in_words(server: ComfyUI, body: str) -> None:
    answer = server.http.post("/ryla/missing", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"].startswith("Wanted: ")


def test_an_opened_graph_is_told_by_what_auto_would_take(server: ComfyUI) -> None:
    loader = {"type": "RYLA_FluxLoader", "values": ["auto", "default", "auto"]}
    other = {"name": "theirs.safetensors", "directory": "checkpoints"}
    stale = {"name": "t5xxl_fp16.safetensors", "directory": "text_encoders"}
    encoders = server.base / "models" / "text_encoders"
    encoders.mkdir(exist_ok=True)
    (encoders / "t5xxl_fp8_e4m3fn.safetensors").symlink_to(_a_file(server, "t5xxl"))
    try:
        asked = {"nodes": [loader, {"type": "KSampler", "values": [1]}], "models": [other, stale]}
        told = server.http.post("/ryla/models", json=asked).json()
    finally:
        (encoders / "t5xxl_fp8_e4m3fn.safetensors").unlink()
    [of_loader, of_sampler] = told["files"]
    assert of_sampler == []
    assert [each["name"] for each in of_loader] == ["flux1-dev.safetensors", "clip_l.safetensors", "ae.safetensors"]
    assert all(each["url"].startswith("https://huggingface.co/") and each["directory"] for each in of_loader)
    assert [each["name"] for each in told["models"]] == ["theirs.safetensors", "clip_l.safetensors", "ae.safetensors"]


def _a_file(server: ComfyUI, part: str) -> Path:
    made = tiny_flux.ensure(server.base / "made")
    return Path(getattr(made, part))


@pytest.mark.parametrize("body", ["[]", "{", '{"nodes": 3}', '{"nodes": ["x"]}', '{"nodes": [], "models": {}}'])
def test_a_body_that_is_no_list_of_nodes_is_refused_in_words(server: ComfyUI, body: str) -> None:
    answer = server.http.post("/ryla/models", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"].startswith("Wanted: ")


@pytest.mark.parametrize("values", [None, 3, {}, [], [[]], ["auto", "default"], ["auto", 1, None, "more"]])
def test_values_that_no_node_has_are_no_fault(server: ComfyUI, values: Any) -> None:
    kinds = ("RYLA_FluxLoader", "RYLA_SDXLLoader", "x", None)
    asked = {"nodes": [{"type": kind, "values": values} for kind in kinds], "models": []}
    assert server.http.post("/ryla/models", json=asked).status_code == 200


@pytest.mark.parametrize("name", ["bilder/größe 模型.safetensors", "bilder\\größe 模型.safetensors"])
def test_a_name_in_any_script_and_by_either_separator_is_taken(server: ComfyUI, name: str) -> None:
    graph = {"loader": node("RYLA_SDXLLoader", checkpoint=name), **encoded(link("loader", 1))}
    assert "模型" in refused(server, graph, "loader")
    path = server.base / "models" / "checkpoints" / "bilder" / "größe 模型.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        assert server.http.post("/ryla/missing", json={"prompt": graph}).json() is None
    finally:
        path.unlink()


def test_a_lora_that_was_deleted_after_it_was_chosen(server: ComfyUI) -> None:
    path = server.base / "models" / "loras" / "anna.safetensors"
    path.parent.mkdir(exist_ok=True)
    lora_files.small(path, "anna")
    lora = {"model": link("loader"), "lora_id": "anna", "strength": 1.0, "on_missing": "error"}
    graph = {
        "loader": LOADER,
        "lora": node("RYLA_LoraLoader", clip=link("loader", 1), **lora),
        **encoded(link("lora", 1)),
    }
    assert "lora" not in server.submit(graph).json()["node_errors"]
    path.unlink()
    told = refused(server, graph, "lora")
    assert "No LoRA 'anna'" in told and str(path.parent) in told
    [command] = commands(told)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


def scored() -> dict[str, Any]:
    """A picture that is saved, and scored from there."""
    sources = {"analyzer": link("analyzer"), "reference": link("image"), "image": link("save")}
    save = {"filename_prefix": "kept/x", "format": "png", "quality": 90, "metadata": False}
    return {
        "image": EMPTY,
        "analyzer": node("RylaTestAnalyzer"),
        "score": node("RYLA_FaceSimilarity", threshold=0.4, **sources),
        "save": node("RYLA_SaveImage", images=link("image"), **save),
    }


def test_without_its_recogniser_a_score_is_left_out_and_told_and_the_picture_made(server: ComfyUI) -> None:
    answer = server.submit(scored())
    assert answer.status_code == 200
    [error] = answer.json()["node_errors"]["score"]["errors"]
    assert "w600k_r50.onnx" in error["details"] and commands(error["details"])


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("before", [False, True], ids=["now", "as saved before"])
def test_a_score_that_fails_takes_no_picture_with_it(server: ComfyUI, attempt: int, before: bool) -> None:
    """In a workflow of before, a score takes its picture from where the save takes it, and could run first."""
    scorer = server.base / "models" / "insightface" / "models" / "buffalo_l" / "w600k_r50.onnx"
    scorer.parent.mkdir(parents=True, exist_ok=True)
    scorer.touch()
    try:
        graph = scored()
        graph["image"] = {**EMPTY, "inputs": {**EMPTY["inputs"], "color": 10 * before + attempt + 1}}
        if before:
            graph["score"]["inputs"]["image"] = link("image")
        entry = server.run(graph)
    finally:
        scorer.unlink()
    assert entry["status"]["status_str"] == "error"
    [picture] = entry["outputs"]["save"]["images"]
    assert (server.output / picture["subfolder"] / picture["filename"]).is_file()


@pytest.mark.parametrize("name", ["flux-instantid", "sdxl-instantid"])
def test_the_workflows_score_what_was_saved(name: str) -> None:
    graph = shipped(name)
    [save] = [key for key, each in graph.items() if each["class_type"] == "RYLA_SaveImage"]
    [score] = [each for each in graph.values() if each["class_type"] == "RYLA_FaceSimilarity"]
    assert score["inputs"]["image"] == [save, 0]
