"""All that is missing in one list, each thing once, with the fewest commands."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ryla_nodes.client.failures import Subject, partial_validation, refusal
from ryla_nodes.engines.protocol import running_in
from ryla_nodes.errors import RylaError, RylaErrors
from ryla_nodes.identity.face_file import FaceIdentity
from ryla_nodes.models import flux_files, missing
from ryla_nodes.models.folders import ModelFolders, at_root
from ryla_nodes.models.identity_files import IdentitySearch, find_pack, find_scorer
from ryla_nodes.nodes.face_files import SaveFace
from ryla_nodes.workflows import lacking
from ryla_nodes.workflows.workflow import Output


def lack(model: str, name: str) -> RylaError:
    return RylaError("missing_model", f"{name} is not there.", hint=f"ryla models install {model}", model=model)


def failing(error: RylaError) -> Any:
    def check() -> None:
        raise error

    return check


def test_every_check_is_made_before_the_first_failure_is_raised() -> None:
    made: list[str] = []
    checks = [failing(lack("ae", "ae")), lambda: made.append("made"), failing(lack("clip_l", "clip_l"))]
    with pytest.raises(RylaErrors) as caught:
        missing.require(checks)
    assert made == ["made"] and [error.details["model"] for error in caught.value.errors] == ["ae", "clip_l"]
    with pytest.raises(RylaError, match="ae is not there"):
        missing.require(checks[:2])


def test_several_failures_become_one_with_one_command() -> None:
    pip = RylaError("insightface_missing", "No InsightFace.", hint="pip install x")
    one = missing.together([lack("ae", "ae"), lack("clip_l", "clip_l"), lack("ae", "ae"), pip])
    assert one.message == "ae is not there. clip_l is not there. No InsightFace."
    assert (one.code, one.hint) == ("missing_model", "pip install x; then: ryla models install ae clip_l")
    assert missing.together([pip]) is pip


def test_flux_names_every_file_even_without_its_transformer(tmp_path: Path) -> None:
    with pytest.raises(RylaError) as caught:
        flux_files.locate(at_root(tmp_path), "auto", "auto")
    for name in ("flux1-dev.safetensors", "clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors"):
        assert name in caught.value.message
    with pytest.raises(RylaError) as caught:
        flux_files.locate(at_root(tmp_path), "auto", "t5xxl_fp8_e4m3fn")
    assert caught.value.hint == "ryla models install flux1-dev clip_l t5xxl_fp8_e4m3fn ae"
    with pytest.raises(RylaError, match=r"mine\.safetensors is not there.*ae\.safetensors") as caught:
        flux_files.locate(at_root(tmp_path), "mine.safetensors", "auto")
    assert "choose auto" in caught.value.hint and "ryla models install clip_l t5xxl_fp16 ae" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "bilder/größe 模型.safetensors",
        "bilder\\größe 模型.safetensors",
        unicodedata.normalize("NFD", "bilder/größe 模型.safetensors"),
    ],
)
def test_a_name_in_any_script_is_found_by_either_separator(tmp_path: Path, name: str) -> None:
    path = tmp_path / "checkpoints" / "bilder" / "größe 模型.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    assert IdentitySearch(at_root(tmp_path)).checkpoint(name) == path
    path.unlink()
    with pytest.raises(RylaError, match="模型") as caught:
        IdentitySearch(at_root(tmp_path)).checkpoint(name)
    assert str(tmp_path / "checkpoints") in caught.value.message


def test_a_face_that_cannot_be_saved_is_told(tmp_path: Path) -> None:
    (tmp_path / "insightface").touch()  # Whoever runs this may write everywhere, but not into a file.

    class Engine:
        name = "test"

        def folders(self) -> ModelFolders:
            return ModelFolders({"insightface": (tmp_path / "insightface",)})

    with running_in(Engine()), pytest.raises(RylaError, match="cannot be written") as caught:  # type: ignore[arg-type]
        SaveFace.execute(FaceIdentity(np.zeros((1, 512), np.float32)), "anna")
    assert caught.value.code == "not_writable" and str(tmp_path) in caught.value.message


# --- the editor's list ------------------------------------------------------------------------------------------------


def raised(*errors: RylaError) -> dict[str, Any]:
    told = str(errors[0]) if len(errors) == 1 else str(RylaErrors(errors))
    return {"errors": [{"type": "exception_during_inner_validation", "message": "Exception", "details": told}]}


def caught(find: Any, *given: Any) -> RylaError:
    with pytest.raises(RylaError) as error:
        find(*given)
    return error.value


def not_in_list(input_name: str, value: str) -> dict[str, Any]:
    info = {"input_name": input_name, "received_value": value}
    told = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": f"{input_name}: x",
        "extra_info": info,
    }
    return {"errors": [told]}


def graph(*titles: str) -> dict[str, Any]:
    return {title: {"class_type": "Any", "inputs": {}, "_meta": {"title": title}} for title in titles}


def test_a_whole_graph_is_one_list_with_one_command(tmp_path: Path) -> None:
    folders = at_root(tmp_path)
    roots = folders.get("insightface")
    pip = RylaError("insightface_missing", "InsightFace is not installed.", hint="python -m pip install insightface")
    errors = {
        "Score": raised(caught(find_scorer, roots)),
        "Faces": raised(pip, caught(find_pack, roots)),
        "SDXL": raised(caught(IdentitySearch(folders).checkpoint, "auto")),
        "FLUX": raised(caught(flux_files.locate, folders, "auto", "auto")),
        "Core": not_in_list("vae_name", "ae.safetensors"),
        "Other": not_in_list("lora_name", "style.safetensors"),
        "Photo": {"errors": [{"type": "custom_validation_failed", "message": "Failed", "details": "image - No such."}]},
    }
    found = lacking.report(graph("FLUX", "Faces", "SDXL", "Core", "Other", "Photo", "Score"), errors, folders)
    assert found is not None
    ids = ["flux1-dev", "clip_l", "t5xxl_fp16", "ae", "antelopev2", "realvisxl-v5", "buffalo_l-w600k_r50"]
    assert [model.id for model in found.models] == ids
    assert found.commands == ["python -m pip install insightface", f"ryla models install {' '.join(ids)}"]
    ae = found.models[3]
    assert (ae.file, ae.nodes, ae.gated) == ("vae/ae.safetensors", ("FLUX", "Core"), True)
    assert ae.searched == (str(tmp_path / "vae"),) and ae.size and ae.licence and ae.licence_url
    assert [(fault.message, fault.nodes) for fault in found.faults] == [
        ("InsightFace is not installed.", ("Faces",)),
        ("lora_name: style.safetensors is not there.", ("Other",)),
        ("No such.", ("Photo",)),
    ]


def test_what_has_another_name_here_is_not_called_missing(tmp_path: Path) -> None:
    """Only the VAE is missing beside a transformer of the user's own name; the workflow's is not there, either."""
    error = RylaError("missing_model", "vae/ae.safetensors is not there.", hint="ryla models install flux-dev")
    found = lacking.report(graph("FLUX"), {"FLUX": raised(error)}, at_root(tmp_path))
    assert found is not None and [model.id for model in found.models] == ["ae"]


def test_other_faults_of_ours_keep_their_words(tmp_path: Path) -> None:
    error = RylaError("lora_not_found", "No LoRA 'x'.", hint="ryla loras list")
    found = lacking.report(graph("LoRA"), {"LoRA": raised(error)}, at_root(tmp_path))
    assert found is not None and not found.models and not found.commands
    [fault] = found.faults
    assert (fault.message, fault.hint, fault.nodes) == ("No LoRA 'x'.", "ryla loras list", ("LoRA",))


def test_a_graph_with_faults_of_others_alone_is_theirs() -> None:
    photo = {"errors": [{"type": "custom_validation_failed", "message": "Failed", "details": "image - No such."}]}
    assert lacking.report(graph("Photo"), {"Photo": photo}, ModelFolders({})) is None


# --- the runner's --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["raised", "returned"])
def test_the_runner_makes_one_error_of_what_all_nodes_said(way: str) -> None:
    spelled = "'/a b/python' /c/scripts/install_models.py install --volume '/m o' {}"
    errors = {"FLUX": ("No flux.", "flux-dev"), "SDXL": ("No sdxl.", "realvisxl-v5")}
    raised_kind, returned_kind = "exception_during_inner_validation", "custom_validation_failed"
    kind, before = (raised_kind, "") if way == "raised" else (returned_kind, "model - ")
    node_errors = {}
    for key, (line, model) in errors.items():
        details = f"{before}{line} Next: {spelled.format(model)} [missing_model]"
        node_errors[key] = {"errors": [{"type": kind, "message": "Failed", "details": details}]}
    body = {"error": {"type": "prompt_outputs_failed_validation", "message": "Failed"}, "node_errors": node_errors}
    told = refusal(Subject("1", "http://engine", graph("FLUX", "SDXL"), ()), 400, body)
    assert (told.code, told.hint) == ("missing_model", "ryla models install flux-dev realvisxl-v5")
    assert told.message == '"FLUX" (Any) on http://engine: No flux. "SDXL" (Any) on http://engine: No sdxl.'
    assert told.details["server"] == "http://engine"


def test_a_score_that_is_left_out_is_the_missing_file() -> None:
    error = RylaError("missing_model", "No w600k_r50.onnx.", hint="ryla models install buffalo_l-w600k_r50")
    output = Output("Score", "Score", "similarity")
    subject = Subject("1", "http://engine", graph("Score"), (output,))
    told = partial_validation(subject, {"Score": raised(error)}, [output])
    assert (told.code, told.hint) == (error.code, error.hint)
