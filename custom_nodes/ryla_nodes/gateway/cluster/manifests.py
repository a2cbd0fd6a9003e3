"""A cluster of engines as files: the config for ``serve deploy``, and the manifest for KubeRay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from .options import APPLICATION, EngineOptions

IMPORT_PATH = "ryla_nodes.gateway.cluster.app:build"
_PORT = 8190
_GPU = "nvidia.com/gpu"
_VOLUME = "/ryla"


@dataclass(frozen=True)
class Images:
    """What the pods of a KubeRay cluster run.

    Attributes:
        image: has Ray, this pack with its extras ``gateway`` and ``ray``, and the engine.
        ray: Ray's version in it.
        volume: the claim of the volume with the models.
        gateways: how many gateways; they share the Postgres that the secret names.
        secret: has ``RYLA_TOKEN`` and ``RYLA_JOBS_URL``.
    """

    image: str
    ray: str
    volume: str = "ryla-models"
    gateways: int = 2
    secret: str = "ryla"


def serve_config(options: EngineOptions) -> dict[str, Any]:
    """The Serve config: engines without a door of their own. The gateway is the door."""
    return {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": APPLICATION,
                "import_path": IMPORT_PATH,
                "route_prefix": None,
                "args": options.record(),
                "deployments": [{"name": options.kind, **options.deployment()}],
            }
        ],
    }


def kuberay(options: EngineOptions, images: Images) -> list[dict[str, Any]]:
    """A RayService of engines, the gateways before it, and the service that leads to them."""
    return [_ray_service(options, images), _gateways(images), _service()]


def _ray_service(options: EngineOptions, images: Images) -> dict[str, Any]:
    head = {"rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"}, "template": _pod(images, "ray-head", {})}
    limits = {"cpu": max(1, round(options.cpus)), **({_GPU: round(options.gpus)} if options.gpus else {})}
    workers = {
        "groupName": "engines",
        "minReplicas": options.min_replicas,
        "replicas": options.min_replicas,
        "maxReplicas": options.max_replicas,
        "rayStartParams": {},
        "template": _pod(images, "ray-worker", limits),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "ryla"},
        "spec": {
            "serveConfigV2": written(serve_config(options)),
            "rayClusterConfig": {
                "rayVersion": images.ray,
                "enableInTreeAutoscaling": True,
                "headGroupSpec": head,
                "workerGroupSpecs": [workers],
            },
        },
    }


def _pod(images: Images, name: str, limits: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": images.image,
        "env": [{"name": "RYLA_VOLUME", "value": _VOLUME}],
        "volumeMounts": [{"name": "models", "mountPath": _VOLUME}],
    }
    if limits:
        container["resources"] = {"limits": limits, "requests": limits}
    models = {"name": "models", "persistentVolumeClaim": {"claimName": images.volume}}
    return {"spec": {"containers": [container], "volumes": [models]}}


def _gateways(images: Images) -> dict[str, Any]:
    """Each is a node of the cluster that takes no replicas: a driver of Ray needs one on its machine."""
    command = (
        "ray start --address=ryla-head-svc:6379 --num-cpus=0 --num-gpus=0 && "
        f"exec ryla serve --ray auto --host 0.0.0.0 --port {_PORT} --log-format json"
    )
    container = {
        "name": "gateway",
        "image": images.image,
        "command": ["bash", "-c", command],
        "ports": [{"containerPort": _PORT}],
        "envFrom": [{"secretRef": {"name": images.secret}}],
        "env": [{"name": "RYLA_VOLUME", "value": _VOLUME}],
        "volumeMounts": [{"name": "models", "mountPath": _VOLUME, "readOnly": True}],
        "livenessProbe": {"httpGet": {"path": "/health", "port": _PORT}, "initialDelaySeconds": 60},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": _PORT}},
    }
    models = {"name": "models", "persistentVolumeClaim": {"claimName": images.volume}}
    labels = {"app": "ryla-gateway"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ryla-gateway"},
        "spec": {
            "replicas": images.gateways,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 90, "containers": [container], "volumes": [models]},
            },
        },
    }


def _service() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ryla-gateway"},
        "spec": {"selector": {"app": "ryla-gateway"}, "ports": [{"port": 80, "targetPort": _PORT}]},
    }


def written(*documents: dict[str, Any]) -> str:
    """As YAML."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such, and every list and mapping out where it is used twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
