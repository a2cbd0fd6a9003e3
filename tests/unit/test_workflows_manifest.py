"""A workflow's folder: what loads, what is refused, and that the shipped ones are in order."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from ryla_nodes import settings
from ryla_nodes.batch.naming import OWN_FIELDS
from ryla_nodes.cli.app import app
from ryla_nodes.cli.run import command
from ryla_nodes.errors import RylaError
from ryla_nodes.models import catalogue
from ryla_nodes.workflows.graph import title_of
from ryla_nodes.workflows.manifest import RESERVED, available, load, read, shipped_root
from ryla_nodes.workflows.object_info import recorded, versions
from ryla_nodes.workflows.validate import problems

ENVIRONMENT = settings.load({})
SHIPPED = sorted(available(ENVIRONMENT))
GRAPH = {
    "1": {
        "class_type": "EmptyLatentImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1},
        "_meta": {"title": "Size"},
    },
    "2": {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["1", 0], "filename_prefix": "x"},
        "_meta": {"title": "Result"},
    },
}
HEAD = 'title = "T"\nsummary = "S"\n[[outputs]]\nnode = "Result"\nkind = "image"\n'
WIDTH = '[parameters.width]\ntype = "int"\nnode = "Size"\ninput = "width"\nhelp = "Width."\n'


def folder(tmp_path: Path, manifest: str, graph: Any = GRAPH) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "api.json").write_text(graph if isinstance(graph, str) else json.dumps(graph))
    (path / "workflow.toml").write_text(manifest)
    return path


def refused(path: Path) -> str:
    with pytest.raises(RylaError) as raised:
        read(path)
    assert raised.value.code == "invalid_workflow"
    assert str(path) in raised.value.message
    return raised.value.message


def test_a_folder_loads(tmp_path: Path) -> None:
    workflow = read(folder(tmp_path, HEAD + WIDTH + "default = 64\nmin = 8\nstep = 8\n"))
    parameter = workflow.parameter("width")
    assert parameter is not None
    assert (parameter.default, parameter.bindings[0].node_id) == (64, "1")
    assert (workflow.name, workflow.outputs[0].node_id) == ("mine", "2")


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (HEAD.replace("Result", "Resulf"), 'the graph has no node titled "Resulf"; did you mean "Result"?'),
        (HEAD + WIDTH.replace('"Size"', '"Sampler"') + "default = 1", 'the graph has no node titled "Sampler"'),
        (HEAD + WIDTH.replace('"width"', '"widht"') + "default = 1", 'has no input "widht"; did you mean "width"?'),
        (HEAD + WIDTH, "say either required = true or a default"),
        (HEAD + WIDTH + "default = 1\nrequired = true", "say either required = true or a default"),
        (HEAD + WIDTH + "default = 4\nmin = 8", "its own default is refused: width 4 is below the smallest, 8."),
        (HEAD + WIDTH + "default = 8\nstep = 8", "step is positive and counts from min"),
        (HEAD + WIDTH + "default = 8\nchoices = ['a']", "choices belong to enum"),
        (HEAD + WIDTH + "default = 8\nminimum = 8", 'has an unknown key "minimum"; did you mean "min"?'),
        (HEAD + WIDTH.replace("int", "integer", 1), 'type "integer" is none of string, text, int'),
        (HEAD + WIDTH.replace('help = "Width."', ""), "needs a non-empty help"),
        (HEAD + WIDTH + "default = 8\naliases = ['w', 'w']", 'the name "w" is taken by width'),
        (HEAD + WIDTH + "default = 8\nbind = [['Size', 'height']]", "say either node and input, or bind"),
        (HEAD.replace("image", "video"), 'kind "video" is none of image'),
        ('title = "T"\nsummary = "S"\n', "it declares no [[outputs]]"),
        (HEAD.replace("title", "titel", 1), 'the top level has an unknown key "titel"; did you mean "title"?'),
        ("title = ", "it is not TOML"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(tmp_path: Path, manifest: str, why: str) -> None:
    assert why in refused(folder(tmp_path, manifest))


def test_a_linked_input_cannot_be_a_parameter(tmp_path: Path) -> None:
    text = WIDTH.replace('"Size"', '"Result"').replace('"width"\n', '"samples"\n') + "default = 1"
    assert 'input "samples" of node "Result" is linked' in refused(folder(tmp_path, HEAD + text))


def test_a_title_used_twice_cannot_be_bound(tmp_path: Path) -> None:
    twin = {**GRAPH, "3": GRAPH["1"]}
    assert 'titled "Size" (ids 1, 3)' in refused(folder(tmp_path, HEAD + WIDTH + "default = 1", twin))


STEPS = '[parameters.steps]\ntype = "int"\nnode = "Size"\ninput = "batch_size"\ndefault = 1\nhelp = "Steps."\n'


def including(tmp_path: Path, manifest: str, **shared: str) -> Path:
    """A workflow beside a folder of shared files; ``manifest`` follows the include of ``shared/a.toml``."""
    (tmp_path / "shared").mkdir()
    for name, text in shared.items():
        (tmp_path / "shared" / f"{name}.toml").write_text(text)
    return folder(tmp_path, f'include = ["../shared/a.toml"]\n{HEAD}{manifest}')


def test_an_included_file_declares_parameters_and_the_manifest_says_otherwise_key_by_key(tmp_path: Path) -> None:
    shared = WIDTH + "default = 64\nmin = 8\n" + STEPS
    path = including(tmp_path, '[parameters.width]\nmin = 16\n[parameters.height]\nhelp = "H."\ntype = "int"\n'
                     'node = "Size"\ninput = "height"\nrequired = true', a=shared)  # fmt: skip
    workflow = read(path)
    assert [parameter.name for parameter in workflow.parameters] == ["height", "width", "steps"]
    width = workflow.parameter("width")
    assert width is not None
    assert (width.min, width.default, width.help) == (16, 64, "Width.")


@pytest.mark.parametrize(
    ("own", "bindings", "required"),
    [
        ("required = true", ["width"], True),
        ('bind = [["Size", "width"], ["Size", "height"]]', ["width", "height"], False),
        ('node = "Size"\ninput = "height"\ndefault = 8', ["height"], False),
    ],
)
def test_what_excludes_an_included_key_takes_its_place(
    tmp_path: Path, own: str, bindings: list[str], required: bool
) -> None:
    parameter = read(including(tmp_path, f"[parameters.width]\n{own}", a=WIDTH + "default = 64")).parameter("width")
    assert parameter is not None
    assert ([binding.input for binding in parameter.bindings], parameter.required) == (bindings, required)


def test_a_manifest_may_bind_one_node_where_the_included_file_binds_two(tmp_path: Path) -> None:
    shared = WIDTH.replace('node = "Size"\ninput = "width"', 'bind = [["Size", "width"], ["Size", "height"]]')
    path = including(tmp_path, '[parameters.width]\nnode = "Size"\ninput = "height"', a=shared + "default = 64")
    parameter = read(path).parameter("width")
    assert parameter is not None
    assert [binding.input for binding in parameter.bindings] == ["height"]


def test_included_files_include_others_and_the_later_one_wins(tmp_path: Path) -> None:
    path = including(tmp_path, "", a=f'include = ["b.toml"]\n{STEPS}', b=WIDTH + "default = 64")
    (tmp_path / "shared" / "c.toml").write_text("[parameters.width]\ndefault = 32")
    manifest = path / "workflow.toml"
    manifest.write_text(manifest.read_text().replace('a.toml"', 'a.toml", "../shared/b.toml", "../shared/c.toml"'))
    assert {p.name: p.default for p in read(path).parameters} == {"width": 32, "steps": 1}


@pytest.mark.parametrize(
    ("shared", "why"),
    [
        ({}, 'it includes "../shared/a.toml", but {root}/shared/a.toml cannot be read: [Errno 2]'),
        ({"a": "title = "}, 'it includes "../shared/a.toml", but {root}/shared/a.toml is not TOML'),
        ({"a": 'title = "T"'}, '{root}/shared/a.toml has an unknown key "title"; known: include, parameters'),
        ({"a": "parameters = 1"}, "{root}/shared/a.toml [parameters] is not a table"),
        ({"a": "include = 1"}, "{root}/shared/a.toml include is a list of strings"),
        ({"a": 'include = ["a.toml"]'}, "files include each other in a circle: a.toml -> a.toml"),
        ({"a": 'include = ["b.toml"]', "b": 'include = ["a.toml"]'}, "in a circle: a.toml -> b.toml -> a.toml"),
        ({"a": 'include = ["../mine/workflow.toml"]'}, "in a circle: workflow.toml -> a.toml -> workflow.toml"),
        ({"a": 'include = ["../../b.toml"]'}, 'it includes "../../b.toml", which is outside of {root}'),
        ({"a": 'include = ["/etc/hostname"]'}, 'it includes "/etc/hostname", which is outside of {root}'),
        ({"a": 'include = ["."]'}, "{root}/shared cannot be read"),
        ({"a": 'include = ["\\u0000"]'}, "which cannot be read: embedded null"),
        ({"a": STEPS.replace("Size", "Sise")}, "[parameters.steps] (of {root}/shared/a.toml): the graph has no node"),
        ({"a": STEPS.replace("1", '"x"')}, "[parameters.steps] (of {root}/shared/a.toml): its own default is refused"),
        ({"a": "[parameters]\nsteps = 1"}, "[parameters.steps] (of {root}/shared/a.toml) is not a table"),
    ],
)  # fmt: skip
def test_an_include_that_is_wrong_says_where(tmp_path: Path, shared: dict[str, str], why: str) -> None:
    assert why.replace("{root}", str(tmp_path)) in refused(including(tmp_path, "", **shared))


def test_a_link_is_no_way_out_of_the_workflows(tmp_path: Path) -> None:
    (tmp_path / "secret.toml").write_text(STEPS)
    (tmp_path / "all").mkdir()
    path = including(tmp_path / "all", "")
    (tmp_path / "all/shared/a.toml").symlink_to(tmp_path / "secret.toml")
    assert f'it includes "../shared/a.toml", which is outside of {tmp_path / "all"}' in refused(path)


def test_a_linked_workflow_includes_what_lies_beside_the_link(tmp_path: Path) -> None:
    path = including(tmp_path, "", a=STEPS)
    path.rename(tmp_path / "elsewhere")
    (tmp_path / "mine").symlink_to(tmp_path / "elsewhere")
    assert read(tmp_path / "mine").parameter("steps")


def test_a_folder_of_shared_files_is_no_workflow(tmp_path: Path) -> None:
    including(tmp_path, "", a=STEPS)
    own = settings.load({"RYLA_WORKFLOWS": str(tmp_path)})
    assert load("mine", own).parameter("steps")
    assert "shared" not in available(own)
    assert (shipped_root() / "shared").is_dir()
    with pytest.raises(RylaError) as raised:
        load("shared", own)
    assert raised.value.code == "unknown_workflow"


@pytest.mark.parametrize("name", RESERVED)
def test_a_parameter_that_nobody_could_give_is_refused(tmp_path: Path, name: str) -> None:
    text = WIDTH.replace("parameters.width", f"parameters.{name}") + "default = 1"
    assert f'[parameters.{name}]: the name "{name}" is reserved for ryla run' in refused(folder(tmp_path, HEAD + text))


@pytest.mark.parametrize("alias", ["count", "dry-run", "dry_run"])
def test_so_is_an_alias(tmp_path: Path, alias: str) -> None:
    text = WIDTH + f'default = 1\naliases = ["w", "{alias}"]'
    assert f'[parameters.width]: the name "{alias}" is reserved for ryla run' in refused(folder(tmp_path, HEAD + text))


def test_the_reserved_names_are_the_options_of_ryla_run_and_the_fields_of_file_names() -> None:
    options = command.option_names(typer.main.get_command(app).commands["run"])
    # A seed is a parameter and a field of file names, and means the same in both.
    assert set(RESERVED) == {*options, "help", "debug", *OWN_FIELDS} - {"seed"}


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        ("{", "is not JSON"),
        ({"nodes": [], "links": []}, "is in the editor's format"),
        ({**GRAPH, "version": 0.4}, '"version" is not a node'),
        ([], "is not an object of nodes"),
    ],
)
def test_a_graph_that_is_not_api_format(tmp_path: Path, graph: Any, why: str) -> None:
    assert why in refused(folder(tmp_path, HEAD, graph))


def test_absent_files(tmp_path: Path) -> None:
    path = folder(tmp_path, HEAD)
    (path / "workflow.toml").unlink()
    assert "cannot be read" in refused(path)
    (path / "api.json").unlink()
    assert "cannot be read" in refused(path)


def test_own_workflows_come_before_the_shipped_ones(tmp_path: Path) -> None:
    folder(tmp_path, HEAD).rename(tmp_path / "flux-dev")
    own = settings.load({"RYLA_WORKFLOWS": str(tmp_path)})
    assert load("flux-dev", own).title == "T"
    assert load("flux-lora", own).title == load("flux-lora", ENVIRONMENT).title


def test_an_unknown_workflow_offers_the_nearest() -> None:
    with pytest.raises(RylaError, match=r'no workflow "flux_dve".*did you mean "flux-dev"') as raised:
        load("flux_dve", ENVIRONMENT)
    assert raised.value.code == "unknown_workflow"
    for name in ("../flux-dev", "", "."):
        with pytest.raises(RylaError):
            load(name, ENVIRONMENT)


def test_the_workflows_of_the_design_are_there() -> None:
    assert {"flux-dev", "flux-instantid", "flux-lora", "sdxl-instantid"} <= set(SHIPPED)
    assert [path.name for path in shipped_root().glob("*.json")] == [], "the editor would list it as a template"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_workflow_is_in_order(name: str) -> None:
    workflow = load(name, ENVIRONMENT)
    for version in versions():
        assert problems(workflow.graph, recorded(version)) == []
    assert [title for title, count in Counter(map(title_of, workflow.graph.values())).items() if count > 1] == []
    for node in workflow.graph.values():
        own = node["class_type"].startswith("RYLA_")
        assert node["_meta"]["cnr_id"] == ("ryla-nodes" if own else "comfy-core")
        assert node["_meta"]["ver"]
    for model in workflow.models:
        assert catalogue.load().get(model)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_graph_holds_the_defaults_of_its_manifest(name: str) -> None:
    """So that the graph makes the same picture in the editor as through the runner."""
    workflow = load(name, ENVIRONMENT)
    for parameter in workflow.parameters:
        for binding in parameter.bindings:
            if parameter.default is not None:
                assert workflow.graph[binding.node_id]["inputs"][binding.input] == parameter.default, parameter.name


def test_one_graph_serves_with_and_without_a_lora() -> None:
    plain, with_lora = (json.dumps(load(name, ENVIRONMENT).graph) for name in ("flux-dev", "flux-lora"))
    assert plain.replace('"flux-dev"', '"flux-lora"') == with_lora
