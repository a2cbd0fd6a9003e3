"""What a deployment on Modal is told: the file ``modal.toml``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import RylaError
from ...similar import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENGINES = ("comfyui", "embedded")


@dataclass(frozen=True)
class ModalPlan:
    """One app on Modal. The defaults are those of ``deploy/modal.toml``, which says what each is for.

    Attributes:
        engine: ``comfyui``, or ``embedded``: no GPU and no weights, to try the deployment.
        gpu: by Modal's name; "" for none.
        workflows: the endpoints; () for all.
        prefetch: whose files are read while ComfyUI is still importing.
        warm_up: what each container runs once before it takes requests.
        min_containers, max_containers: how many are kept, and how many there may be. A job's id is known to its own
            container only.
        requests: how many one container takes at once; the gateway queues them.
        crowded: from how many on Modal starts another container.
        scaledown_window: seconds that an idle container is kept.
        start_within: seconds that a container's start may take.
        timeout: seconds that a job may take, its time in the queue included.
        snapshot: whether Modal keeps the memory of the imported gateway, for later starts.
        cpu, memory: cores and MiB that a container asks for.
    """

    app: str = "ryla"
    engine: str = "comfyui"
    gpu: str = "H100"
    workflows: tuple[str, ...] = ("flux-dev", "flux-lora", "flux-instantid")
    prefetch: tuple[str, ...] = ("flux-dev",)
    warm_up: tuple[str, ...] = ("flux-dev",)
    min_containers: int = 0
    max_containers: int = 1
    requests: int = 64
    crowded: int = 4
    scaledown_window: int = 300
    start_within: int = 600
    timeout: int = 600
    snapshot: bool = True
    cpu: float = 4.0
    memory: int = 32768
    comfyui_args: str = ""
    models_volume: str = "ryla-models"
    loras_volume: str = "ryla-loras"
    secret: str = "ryla"
    hub_secret: str = "ryla-hub"


def load(path: Path) -> ModalPlan:
    """Read the file.

    Raises:
        RylaError: ``invalid_deployment``: it cannot be read, or has a key or value that it must not.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RylaError("invalid_deployment", f"{path} cannot be read: {error}") from error
    plan = ModalPlan(**_typed(path, given))
    _check(path, plan)
    return plan


def _typed(path: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(ModalPlan)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in defaults:
            raise _wrong(path, f"{name} is no setting; the nearest is {nearest(name, defaults, likeness=0.0)}.")
        wanted = type(defaults[name])
        if wanted is tuple:
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise _wrong(path, f"{name} has to be a list of names.")
            values[name] = tuple(value)
        elif type(value) is wanted or (wanted is float and type(value) is int):
            values[name] = wanted(value)
        else:
            raise _wrong(path, f"{name} has to be of type {wanted.__name__}, not {value!r}.")
    return values


def _check(path: Path, plan: ModalPlan) -> None:
    least = {"max_containers": 1, "requests": 2, "crowded": 1, "scaledown_window": 2, "start_within": 10, "timeout": 10}
    for name, low in least.items():
        if getattr(plan, name) < low:
            raise _wrong(path, f"{name} has to be {low} or more, not {getattr(plan, name)}.")
    if plan.engine not in ENGINES:
        raise _wrong(path, f"engine has to be one of {', '.join(ENGINES)}, not {plan.engine!r}.")
    if plan.engine == "comfyui" and not plan.gpu and "--cpu" not in plan.comfyui_args:
        raise _wrong(path, 'engine = "comfyui" needs a gpu, such as "H100"; without one: comfyui_args = "--cpu".')
    if not 0 <= plan.min_containers <= plan.max_containers:
        raise _wrong(path, f"min_containers has to be from 0 to max_containers, not {plan.min_containers}.")
    if plan.crowded > plan.requests:
        raise _wrong(path, f"crowded has to be at most requests ({plan.requests}), not {plan.crowded}.")


def _wrong(path: Path, what: str) -> RylaError:
    return RylaError("invalid_deployment", f"{path}: {what}")
