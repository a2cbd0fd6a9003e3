"""Binding: what goes into the graph, what is refused, and with which words."""

from __future__ import annotations

import copy
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.errors import REGISTRY, RylaError
from ryla_nodes.workflows.manifest import available, load
from ryla_nodes.workflows.object_info import recorded, versions
from ryla_nodes.workflows.parameter import BadValue, Parameter, coerce
from ryla_nodes.workflows.validate import problems
from ryla_nodes.workflows.workflow import BoundPrompt, Workflow, bind

ENVIRONMENT = settings.load({})
WORKFLOWS = {name: load(name, ENVIRONMENT) for name in available(ENVIRONMENT)}
FLUX = WORKFLOWS["flux-dev"]
TRUTH = Parameter("upscale", "bool", "", (), default=False)


def picture_file(kind: str, width: int = 8) -> bytes:
    """A picture, as a file's content."""
    buffer = io.BytesIO()
    Image.effect_noise((width, 8), 50).save(buffer, kind)
    return buffer.getvalue()


PNG, JPEG = picture_file("PNG"), picture_file("JPEG", 800)
BOMB = PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:29]
BOMB += struct.pack(">I", zlib.crc32(BOMB[12:29])) + PNG[33:]


def node(bound: BoundPrompt, title: str) -> dict[str, Any]:
    found = [node for node in bound.graph.values() if node["_meta"]["title"] == title]
    assert len(found) == 1
    return found[0]["inputs"]


def refused(workflow: Workflow, **values: object) -> RylaError:
    with pytest.raises(RylaError) as raised:
        bind(workflow, values)
    return raised.value


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "me.png"
    path.write_bytes(PNG)
    return path


def test_every_value_reaches_its_node() -> None:
    bound = bind(
        FLUX, {"prompt": "a fox", "steps": "28", "guidance": "2.5", "width": 832, "seed": "7", "format": "png"}
    )
    assert node(bound, "Prompt")["text"] == "a fox"
    assert node(bound, "Sampler")["steps"] == 28
    assert node(bound, "Sampler")["seed"] == bound.seed == bound.parameters["seed"] == 7
    assert node(bound, "Size")["width"] == 832
    assert node(bound, "Result")["format"] == "png"
    assert bound.parameters["steps"] == 28
    assert bound.parameters["height"] == 1024


def test_one_parameter_sets_several_nodes() -> None:
    bound = bind(FLUX, {"prompt": "a fox", "guidance": 2.0})
    assert node(bound, "Guidance")["guidance"] == node(bound, "Negative guidance")["guidance"] == 2.0


def test_the_bound_graph_runs_on_both_versions() -> None:
    bound = bind(FLUX, {"prompt": "a fox", "cfg": 3, "quality": 100})
    assert [problem for version in versions() for problem in problems(bound.graph, recorded(version))] == []


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [("num_inference_steps", "steps", 12), ("guidance_scale", "guidance", 4.5), ("sampler_name", "sampler", "heun")],
)
def test_aliases(alias: str, name: str, value: object) -> None:
    assert bind(FLUX, {"prompt": "a fox", alias: value}).parameters[name] == value


def test_lora_name_is_an_alias_and_a_bare_number_is_an_id() -> None:
    bound = bind(WORKFLOWS["flux-lora"], {"prompt": "her", "lora_name": 123, "lora_strength": "0.8"})
    assert node(bound, "Character LoRA") | {"model": 0, "clip": 0} == {
        "model": 0,
        "clip": 0,
        "lora_id": "123",
        "strength": 0.8,
        "on_missing": "error",
        "trigger_word": "",
    }


def test_an_absent_seed_is_random_over_the_whole_range_and_reported() -> None:
    bounds: list[int] = []

    def source(bound: int) -> int:
        bounds.append(bound)
        return 2**63 - 1

    bound = bind(FLUX, {"prompt": "a fox", "seed": None}, seed_source=source)
    assert bounds == [2**63]
    assert bound.seed == node(bound, "Sampler")["seed"] == 2**63 - 1
    assert bind(FLUX, {"prompt": "a fox"}).seed != bind(FLUX, {"prompt": "a fox"}).seed


def test_seed_zero_is_a_seed() -> None:
    assert bind(FLUX, {"prompt": "a fox", "seed": 0}).seed == 0
    assert bind(FLUX, {"prompt": "a fox", "seed": "0"}).seed == 0


def test_one_seed_serves_both_stages(tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(PNG)
    bound = bind(WORKFLOWS["flux-instantid"], {"prompt": "her", "reference_image": photo, "seed": 5})
    assert node(bound, "Sampler")["seed"] == node(bound, "Face sampler")["seed"] == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 1000}, "width 1000 is not a multiple of 16: the nearest are 992 and 1008."),
        ({"width": 64}, "width 64 is below the smallest, 128."),
        ({"height": "4096"}, "height 4096 is above the largest, 2048."),
        ({"steps": -3}, "steps -3 is below the smallest, 1."),
        ({"steps": "many"}, 'steps is a number, not "many".'),
        ({"steps": 20.5}, "steps is a whole number, not 20.5."),
        ({"steps": True}, "steps is a number, not True."),
        ({"seed": "abc"}, 'seed is a number, not "abc".'),
        ({"seed": -1}, "seed -1 is below the smallest, 0: leave it out for a random one."),
        ({"seed": 2**64}, f"seed {2**64} is above the largest, {2**64 - 1}."),
        ({"guidance": "nan"}, 'guidance is a number, not "nan".'),
        ({"guidance": math.inf}, "guidance is a number, not inf."),
        ({"steps": "9" * 5000}, f'steps is a number, not "{"9" * 76}...'),
        ({"steps": 10**5000}, "steps is too large."),
        ({"sampler": "eular"}, 'sampler has no choice "eular": did you mean "euler"?'),
        ({"format": "gif"}, 'format has no choice "gif": it is one of jpeg, webp, png.'),
        ({"prompt": "  "}, "prompt is empty."),
        ({"prompt": ["2", 0]}, "prompt is a text, not ['2', 0]."),
        ({"prompt": "a \ud800"}, "prompt holds a character that is not valid Unicode, at 2."),
        ({"steps": 10, "num_inference_steps": 12}, "steps is given twice: as steps and as num_inference_steps."),
    ],
)
def test_invalid_values_say_what_would_do(values: dict[str, object], message: str) -> None:
    error = refused(FLUX, **{"prompt": "a fox", **values})
    assert (error.code, error.message) == ("invalid_parameter", message)
    assert error.hint == "ryla workflows show flux-dev"


@pytest.mark.parametrize(("value", "expected"), [("on", True), ("No", False), (1, True), (False, False)])
def test_truth_values(value: object, expected: bool) -> None:
    assert coerce(TRUTH, value) is expected


@pytest.mark.parametrize("value", ["maybe", 2, pytest.param(10**5000, id="huge"), None, [], "", 0.5])
def test_no_truth_values(value: object) -> None:
    with pytest.raises(BadValue, match="upscale is true or false"):
        coerce(TRUTH, value)


@pytest.mark.parametrize("value", [0.3, "0.3", 0.7000000000000001, 1])
def test_decimal_steps_are_exact(value: object) -> None:
    tenth = Parameter("x", "float", "", (), default=0.0, min=0.0, max=1.0, step=0.1)
    if value == 0.7000000000000001:
        with pytest.raises(BadValue, match=r"the nearest are 0\.7 and 0\.8"):
            coerce(tenth, value)
    else:
        assert coerce(tenth, value) == float(str(value))


def test_steps_count_from_the_smallest_value_and_end_at_the_largest() -> None:
    odd = Parameter("n", "int", "", (), default=5, min=5, max=14, step=4)
    assert [coerce(odd, n) for n in (5, 9, "13")] == [5, 9, 13]
    with pytest.raises(BadValue, match="n 10 is not 5 plus a multiple of 4: the nearest are 9 and 13"):
        coerce(odd, 10)
    with pytest.raises(BadValue, match="the nearest is 13"):
        coerce(odd, 14)


def test_a_missing_parameter() -> None:
    error = refused(FLUX)
    assert error.code == "missing_parameter"
    assert error.message.startswith("prompt is required: What the picture shows")


@pytest.mark.parametrize(
    ("given_name", "real"),
    [("promt", "prompt"), ("num_steps", "steps"), ("guidance-scale", "guidance"), ("Seed", "seed")],
)
def test_an_unknown_parameter_offers_the_nearest_real_name(given_name: str, real: str) -> None:
    error = refused(FLUX, prompt="a fox", **{given_name: "1"})
    assert error.code == "unknown_parameter"
    assert error.message == f'flux-dev has no parameter "{given_name}": did you mean "{real}"?'


def test_every_fault_is_reported_at_once() -> None:
    error = refused(FLUX, promt="a fox", width=1000, seed="abc", steps=5)
    assert error.code == "unknown_parameter"
    assert error.message == 'flux-dev has no parameter "promt": did you mean "prompt"? (3 more)'
    assert [(p["parameter"], p["code"]) for p in error.details["problems"]] == [
        ("promt", "unknown_parameter"),
        ("prompt", "missing_parameter"),
        ("width", "invalid_parameter"),
        ("seed", "invalid_parameter"),
    ]
    assert error.details["problems"][2]["facts"]["nearest"] == [992, 1008]


def test_a_picture_is_an_upload(tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(PNG)
    bound = bind(WORKFLOWS["sdxl-instantid"], {"prompt": "her", "reference_image": str(photo)})
    (upload,) = bound.uploads
    assert upload.path == photo
    done = bound.with_image(upload.node_id, upload.input, "ab12.png")
    assert done.uploads == ()
    assert node(done, "Reference photo")["image"] == "ab12.png"
    assert node(bound, "Reference photo")["image"] == "me.png"


def test_only_pictures_are_outputs_to_fetch(picture: Path) -> None:
    workflow = WORKFLOWS["sdxl-instantid"]
    assert [output.kind for output in workflow.outputs] == ["image", "similarity"]
    assert [o.title for o in bind(workflow, {"prompt": "her", "reference_image": picture}).outputs] == ["Result"]


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (None, "cannot be read: No such file or directory."),
        (b"", "is empty."),
        (b"hello", "is not a picture (PNG, JPEG"),
        (PNG[:20], "is damaged or incomplete:"),
        (JPEG[: len(JPEG) // 2], "is damaged or incomplete:"),
        (BOMB, "has too many pixels:"),
    ],
)
def test_a_file_that_is_no_picture(tmp_path: Path, content: bytes | None, end: str) -> None:
    photo = tmp_path / "me.jpg"
    if content is not None:
        photo.write_bytes(content)
    error = refused(WORKFLOWS["sdxl-instantid"], prompt="her", reference_image=photo)
    assert error.code == "invalid_parameter"
    assert f'reference_image "{photo}" {end}' in error.message


def test_a_folder_and_a_nonsense_path_are_no_pictures(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / ("x" * 300), "a\0b", ""):
        error = refused(WORKFLOWS["sdxl-instantid"], prompt="her", reference_image=path)
        assert error.code == "invalid_parameter", path


PARAMETERS = [(workflow, parameter) for workflow in WORKFLOWS.values() for parameter in workflow.parameters]
ANYTHING: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3000, 3000)
    | st.floats()
    | st.text()
    | st.floats().map(repr)
    | st.integers().map(str)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
)


def likely(parameter: Parameter) -> st.SearchStrategy[Any]:
    return ANYTHING | st.sampled_from([*parameter.choices, parameter.default, parameter.min, parameter.max])


@hypothesis.settings(deadline=None)
@given(data=st.data(), case=st.sampled_from(PARAMETERS))
def test_any_value_binds_to_itself_or_is_refused(
    picture: Path, data: st.DataObject, case: tuple[Workflow, Parameter]
) -> None:
    workflow, parameter = case
    required = {p.name: picture if p.type == "image" else "x" for p in workflow.parameters if p.required}
    before = copy.deepcopy(workflow.graph)
    value = data.draw(likely(parameter))
    try:
        bound = bind(workflow, {**required, parameter.name: value})
    except RylaError as error:
        assert REGISTRY[error.code].exit_status == 2
        assert parameter.name in error.message
    else:
        _assert_bound(bound, parameter, value)
    assert workflow.graph == before


def _assert_bound(bound: BoundPrompt, parameter: Parameter, value: object) -> None:
    effective = bound.parameters[parameter.name]
    for binding in parameter.bindings:
        held = bound.graph[binding.node_id]["inputs"][binding.input]
        assert type(held) is type(effective)
        assert held == effective
    if isinstance(effective, int | float) and not isinstance(effective, bool):
        assert parameter.min is None or effective >= parameter.min
        assert parameter.max is None or effective <= parameter.max
        assert not parameter.step or math.isclose((effective - (parameter.min or 0)) % parameter.step, 0)
        if value is not None and not isinstance(value, str):
            assert effective == value
    if parameter.choices:
        assert effective in parameter.choices


@hypothesis.settings(deadline=None)
@given(names=st.dictionaries(st.text(), ANYTHING, min_size=1, max_size=4))
def test_an_unknown_name_never_passes(names: dict[str, object]) -> None:
    known = {name for p in FLUX.parameters for name in (p.name, *p.aliases)}
    unknown = {name for name, value in names.items() if value is not None and name not in known}
    if unknown:
        error = refused(FLUX, **names)
        assert error.code == "unknown_parameter"
        assert {p["parameter"] for p in error.details["problems"] if p["code"] == "unknown_parameter"} == unknown
