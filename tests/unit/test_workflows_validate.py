"""The validator against recorded node classes: what it finds, what it advises, and that comfy-cli agrees."""

from __future__ import annotations

import copy
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryla_nodes import settings
from ryla_nodes.engines.protocol import running_in
from ryla_nodes.errors import RylaError
from ryla_nodes.models.folders import ModelFolders
from ryla_nodes.nodes import node_classes
from ryla_nodes.workflows.manifest import available
from ryla_nodes.workflows.object_info import recorded, versions
from ryla_nodes.workflows.validate import Problem, problems, require_valid
from unit import workflows_comfy_cli as comfy_cli
from unit.workflows_broken_graphs import GRAPH, VARIANTS, Variant

NEWEST = recorded(versions()[-1])


def errors(graph: dict[str, Any], info: Any = NEWEST) -> list[Problem]:
    return [problem for problem in problems(graph, info) if problem.severity == "error"]


@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_is_broken_is_found(variant: Variant, version: str) -> None:
    first = next(iter(errors(variant.graph, recorded(version))), None)
    assert (first.code if first else "") == variant.code


def changed(node_id: str, **inputs: Any) -> dict[str, Any]:
    graph = copy.deepcopy(GRAPH)
    graph[node_id]["inputs"].update(inputs)
    return graph


def only(graph: dict[str, Any], info: Any = NEWEST) -> Problem:
    (problem,) = problems(graph, info)
    return problem


def test_a_problem_names_the_node_and_what_would_do() -> None:
    problem = only(changed("3", upscale_method="lancsoz"))
    place = '"Scale" (ImageScale, node 3) input "upscale_method"'
    assert problem.message == f"{place} has no choice 'lancsoz': did you mean \"lanczos\"?"
    assert (problem.node_id, problem.title, problem.input) == ("3", "Scale", "upscale_method")
    assert "below the smallest, 1" in only(changed("2", blur_radius=0)).message
    assert 'takes IMAGE but is linked to BOOLEAN from "Contains"' in errors(changed("3", image=["5", 0]))[0].message


def test_an_input_that_the_engine_ignores_is_a_warning() -> None:
    problem = only(changed("2", blur_radios=3))
    assert (problem.severity, problem.code) == ("warning", "unknown_input")
    assert 'did you mean "blur_radius"?' in problem.message


def test_a_node_that_feeds_no_output_is_a_warning() -> None:
    spare = {**GRAPH, "9": {"class_type": "EmptyImage", "inputs": {"width": -1}}}
    assert [(p.severity, p.code, p.node_id) for p in problems(spare, NEWEST)] == [("warning", "unreachable", "9")]


@pytest.mark.parametrize(
    ("class_type", "meta", "pack", "hint"),
    [
        ("RYLA_Missing", {}, "the pack ryla-nodes", "comfy node install ryla-nodes"),
        ("Whatever", {"cnr_id": "some-pack"}, "the pack some-pack", "comfy node install some-pack"),
        ("Whatever", {"aux_id": "someone/pack"}, "the pack someone/pack", "by its Git URL"),
        ("FromTheFuture", {"cnr_id": "comfy-core", "ver": "0.99.0"}, "ComfyUI itself", "Update ComfyUI to 0.99.0"),
        ("ImageBlurr", None, "a pack that the graph does not name", "Did you mean ImageBlur?"),
    ],
)
def test_a_missing_class_names_its_pack_and_how_to_get_it(
    class_type: str, meta: dict[str, str] | None, pack: str, hint: str
) -> None:
    graph = {**GRAPH, "2": {**GRAPH["2"], "class_type": class_type, "_meta": meta}}
    with pytest.raises(RylaError) as raised:
        require_valid(graph, NEWEST, where="http://engine")
    assert raised.value.code == "missing_node"
    assert raised.value.message.startswith("http://engine: ")
    assert pack in raised.value.message
    assert hint in raised.value.hint


def live(**lists: list[str]) -> dict[str, Any]:
    """The recorded classes with model lists, as a running engine has them."""
    info = copy.deepcopy(NEWEST)
    for name, files in lists.items():
        for declared in info.values():
            for section in ("required", "optional"):
                if name in declared["input"].get(section, {}):
                    declared["input"][section][name] = [files, {}]
    return info


def load_vae(**inputs: str) -> dict[str, Any]:
    return {
        **GRAPH,
        "7": {"class_type": "VAELoader", "inputs": inputs, "_meta": {"title": "VAE"}},
        "8": {"class_type": "VAEEncode", "inputs": {"pixels": ["3", 0], "vae": ["7", 0]}},
        "9": {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["7", 0]}},
        "10": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "x"}},
    }


def test_a_missing_model_file_names_the_command_that_installs_it() -> None:
    graph = load_vae(vae_name="ae.safetensors")
    assert problems(graph, NEWEST) == [], "a recording has no model lists"
    assert problems(graph, live(vae_name=["ae.safetensors"])) == []
    with pytest.raises(RylaError) as raised:
        require_valid(graph, live(vae_name=["other.safetensors"]), where="here")
    assert (raised.value.code, raised.value.hint) == ("missing_model", "ryla models install ae")
    assert '"ae.safetensors", which the engine does not have; it lists other.safetensors' in raised.value.message


def test_a_missing_model_file_that_is_not_ours_names_the_folder() -> None:
    problem = only(load_vae(vae_name="mine.safetensors"), live(vae_name=[]))
    assert (problem.code, problem.hint) == ("missing_model", "Put mine.safetensors into the vae folder")
    assert "it lists no file" in problem.message


def test_the_folder_decides_between_two_files_of_one_name() -> None:
    for class_type, name, model in (
        ("CheckpointLoaderSimple", "ckpt_name", "flux1-dev-fp8"),
        ("UNETLoader", "unet_name", "flux1-dev-fp8-transformer"),
    ):
        loader = {"class_type": class_type, "inputs": {name: "flux1-dev-fp8.safetensors", "weight_dtype": "default"}}
        sampled = {"class_type": "PreviewAny", "inputs": {"source": ["7", 0]}}
        found = errors({**GRAPH, "7": loader, "8": sampled}, live(**{name: []}))
        assert [problem.facts["model"] for problem in found] == [model]


def test_an_upload_is_not_held_against_a_list_made_before_it() -> None:
    graph = changed("3", image=["7", 0]) | {"7": {"class_type": "LoadImage", "inputs": {"image": "new.png"}}}
    info = copy.deepcopy(NEWEST)
    info["LoadImage"]["input"]["required"]["image"] = [["old.png"], {"image_upload": True}]
    assert errors(graph, info) == []


def test_dynamic_inputs_are_left_to_the_engine() -> None:
    inputs = {
        "input": ["2", 0],
        "resize_type": "scale by multiplier",
        "resize_type.multiplier": 2,
        "scale_method": "area",
    }
    graph = changed("4", images=["7", 0]) | {"7": {"class_type": "ResizeImageMaskNode", "inputs": inputs}}
    assert [problem.code for problem in problems(graph, NEWEST)] == ["unreachable"], "node 3 only"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(list(GRAPH)),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=4), values, max_size=3),
    max_leaves=6,
)
NODES = st.fixed_dictionaries(
    {"class_type": st.sampled_from(["ImageScale", "SaveImage", "PreviewAny", "KSampler", "LoadImage"]) | JSON},
    optional={
        "inputs": st.dictionaries(st.sampled_from(["image", "images", "source", "width", "seed", "x"]), JSON) | JSON,
        "_meta": st.dictionaries(st.sampled_from(["title", "cnr_id", "aux_id", "ver"]), JSON) | JSON,
    },
)


@hypothesis.settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list("123456")) | st.text(max_size=2), NODES | JSON))
def test_no_graph_at_all_makes_the_validator_fail(graph: dict[str, Any]) -> None:
    found = problems(graph, NEWEST)
    assert all(problem.message for problem in found)
    assert found or any(node["class_type"] in ("SaveImage", "PreviewAny") for node in graph.values())


def test_every_problem_is_in_the_details() -> None:
    graph = changed("2", blur_radius=0, sigma="x")
    with pytest.raises(RylaError) as raised:
        require_valid(graph, NEWEST, where="here")
    assert raised.value.code == "invalid_graph"
    assert raised.value.message.endswith("(1 more)")
    assert [problem["code"] for problem in raised.value.details["problems"]] == ["out_of_range", "wrong_type"]


def test_our_own_recorded_classes_are_the_nodes_as_they_are() -> None:
    with running_in(SimpleNamespace(folders=lambda: ModelFolders({}))):  # type: ignore[arg-type]
        now = {info["name"]: info for info in (cls.GET_NODE_INFO_V1() for cls in node_classes())}
    expected = json.loads(json.dumps(recorder().reduced(now)))
    for version in versions():
        ours = {name: info for name, info in recorded(version).items() if name.startswith("RYLA_")}
        assert ours == expected, "run scripts/record_object_info.py against both versions"


def recorder() -> Any:
    path = Path(__file__).resolve().parents[2] / "scripts/record_object_info.py"
    spec = importlib.util.spec_from_file_location("record_object_info", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recordings_are_canonical_and_free_of_a_machine() -> None:
    for version in versions():
        text = json.dumps(recorded(version))
        assert ".safetensors" not in text
        assert "tooltip" not in text
        classes = list(recorded(version))
        assert classes == sorted(classes)


def comfy_cli_verdicts(cases: list[tuple[Path, str]]) -> list[bool]:
    """What comfy-cli says of each (graph, version), two at a time: it takes its time to start."""
    command = comfy_cli.find()
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda case: comfy_cli.accepts(command, *case), cases))


def test_comfy_cli_agrees_on_every_shipped_graph() -> None:
    folders = available(settings.load({})).values()
    cases = [(folder / "api.json", version) for folder in folders for version in versions()]
    assert comfy_cli_verdicts(cases) == [True] * len(cases)


def test_comfy_cli_agrees_on_every_broken_graph(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json" for number in range(len(VARIANTS))]
    for path, variant in zip(paths, VARIANTS, strict=True):
        path.write_text(json.dumps(variant.graph))
    accepted = comfy_cli_verdicts([(path, versions()[-1]) for path in paths])
    expected = [not variant.code or variant.comfy_cli_lenient for variant in VARIANTS]
    differ = [v.name for v, got, wanted in zip(VARIANTS, accepted, expected, strict=True) if got != wanted]
    assert differ == []
