"""What a cluster of engines is told, in options and in files, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ryla_nodes.cli.app import app
from ryla_nodes.cli.ray_engines import RayChoice
from ryla_nodes.errors import RylaError
from ryla_nodes.gateway.cluster.options import EngineOptions, replicas_of
from ryla_nodes.version import version
from typer.testing import CliRunner


def test_the_files_of_a_cluster_are_what_serve_and_kuberay_read(tmp_path: Path) -> None:
    command = ["deploy", "ray", "--comfyui", "/opt/ComfyUI", "--comfyui-args=--fast", "--replicas", "0:8"]
    done = CliRunner().invoke(app, [*command, "--image", "me/ryla:1", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    config = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    (application,) = config["applications"]
    assert config["proxy_location"] == "Disabled" and application["route_prefix"] is None
    options = EngineOptions.parse(application["args"])
    assert options.comfyui == "/opt/ComfyUI" and options.arguments == ("--fast",) and options.version == version()
    (deployment,) = application["deployments"]
    assert deployment["ray_actor_options"]["num_gpus"] == 1.0 and deployment["max_ongoing_requests"] == 2
    assert deployment["autoscaling_config"]["min_replicas"] == 0
    service, gateways, door = yaml.safe_load_all((tmp_path / "rayservice.yaml").read_text())
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == config
    (workers,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert workers["maxReplicas"] == 8
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (
        gateways["spec"]["replicas"] == 2
        and "--ray auto" in gateways["spec"]["template"]["spec"]["containers"][0]["command"][2]
    )
    assert door["kind"] == "Service"


def test_serve_itself_takes_the_config(tmp_path: Path) -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed: pip install 'ryla-nodes[ray]'")
    assert CliRunner().invoke(app, ["deploy", "ray", "-o", str(tmp_path)]).exit_code == 0
    config = schema.ServeDeploySchema(**yaml.safe_load((tmp_path / "serve.yaml").read_text()))
    assert config.applications[0].deployments[0].max_ongoing_requests == 2


def test_a_deployment_is_the_same_in_json_and_has_a_digest_of_its_own() -> None:
    options = EngineOptions(kind="comfyui", comfyui="/c", arguments=("--cpu",), warm_up=("flux-dev",), gpus=0.5)
    assert EngineOptions.parse(json.loads(json.dumps(options.record()))) == options
    assert options.digest == EngineOptions.parse(options.record()).digest != EngineOptions().digest


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"kind": "sd"}, "There is no engine kind 'sd'; there are comfyui, embedded, command."),
        ({"kind": "comfyui"}, "A deployment of ComfyUIs needs their folder."),
        ({"min_replicas": 3, "max_replicas": 2}, "3 to 2 replicas: that is no range."),
        ({"replicas": 3}, "A deployment of engines has no setting 'replicas'."),
    ],
)
def test_a_deployment_that_makes_no_sense_is_refused(record: dict[str, object], says: str) -> None:
    with pytest.raises(RylaError) as caught:
        EngineOptions.parse(record)
    assert caught.value.code == "invalid_parameter" and caught.value.message == says


def test_a_number_of_replicas() -> None:
    assert (replicas_of("2"), replicas_of("0:8")) == ((2, 2), (0, 8))
    with pytest.raises(RylaError, match="'some' is no number of replicas"):
        replicas_of("some")


@pytest.mark.parametrize(
    ("choice", "servers", "gpus", "says"),
    [
        (RayChoice(None, "2", None), (), "", "--replicas and --gpus-per-replica are for engines on a Ray cluster"),
        (RayChoice("auto", None, None), ("http://a:1",), "", "--ray goes without --server and --gpus."),
        (RayChoice("auto", None, None), (), "0,1", "--ray goes without --server and --gpus."),
    ],
)
def test_options_that_do_not_go_with_ray(choice: RayChoice, servers: tuple[str, ...], gpus: str, says: str) -> None:
    with pytest.raises(RylaError) as caught:
        choice.require_alone(servers, gpus)
    assert caught.value.code == "conflicting_options" and caught.value.message.startswith(says)


def test_a_machine_without_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RylaError) as caught:
        RayChoice("auto", None, None).require_alone((), "")
    assert caught.value.code == "ray_not_installed" and "ryla-nodes[gateway,ray]" in caught.value.hint


def test_an_address_that_no_cluster_has_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ryla-nodes[ray]'")
    command = ["serve", "--ray", "ray://127.0.0.1:1", "--port", "0", "--state", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, RylaError) and done.exception.code == "cluster_unreachable"
