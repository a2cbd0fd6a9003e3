"""The gateway on Modal: each container has one ComfyUI on one GPU. ``ryla deploy modal`` tells the commands.

What runs in a container is ``ryla_nodes.cli.deploy.modal_host``; what may be changed stands in ``modal.toml``.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import modal
from ryla_nodes import settings
from ryla_nodes.cli.deploy import modal_plan

OPT = Path("/opt/ryla")
SOURCE, COMFYUI, HOME = OPT / "src", OPT / "ComfyUI", OPT / "home"
VOLUME, LORAS = Path("/volume"), Path("/loras")
STATE = Path("/tmp/ryla")
SHIPPED = [".git", ".venv", ".ci", "tests", "training", "docs", "benchmarks", "out", "**/__pycache__", "**/*.egg-info"]
STEPS = {"comfyui": ("system", "comfyui", "pack", "identity"), "embedded": ("system", "embedded")}

HERE = Path(__file__).resolve().parent
TOLD = settings.load().modal or HERE / "modal.toml"
PLAN = modal_plan.load(TOLD)


def _image() -> modal.Image:
    """Step by step as ``deploy/image/install.sh`` has it; this repository comes late, so that torch's layer is kept."""
    early = [step for step in STEPS[PLAN.engine] if step in ("system", "comfyui")]
    late = [step for step in STEPS[PLAN.engine] if step not in early]
    loras = (HOME if PLAN.engine == "embedded" else COMFYUI) / "models" / "loras"
    install = f"RYLA_PREFIX={OPT} RYLA_PYTHON=$(command -v python) bash {SOURCE}/deploy/image/install.sh"
    image = modal.Image.debian_slim(python_version="3.12")
    image = image.add_local_file(HERE / "image" / "install.sh", f"{SOURCE}/deploy/image/install.sh", copy=True)
    image = image.run_commands(*(f"{install} {step}" for step in early))
    image = image.add_local_dir(HERE.parent, str(SOURCE), copy=True, ignore=SHIPPED)
    image = image.run_commands(*(f"{install} {step}" for step in late))
    image = image.run_commands(f"mkdir -p {loras.parent} && rm -rf {loras} && ln -s {LORAS} {loras}")
    image = image.add_local_file(TOLD, str(OPT / "modal.toml"), copy=True)
    return image.env(
        {
            "RYLA_MODAL": str(OPT / "modal.toml"),
            "RYLA_HOME": str(HOME),
            "RYLA_VOLUME": str(VOLUME),
            "RYLA_PREFETCH": ",".join(PLAN.prefetch),
            "RYLA_GPU_USD_PER_HOUR": "modal-2026-01",
        }
    )


# In a container the image is there already, and its parts are not.
image = _image() if modal.is_local() else modal.Image.debian_slim()
# Two volumes: one with an open file cannot be reloaded, and ComfyUI keeps weights open.
models = modal.Volume.from_name(PLAN.models_volume, create_if_missing=True)
loras = modal.Volume.from_name(PLAN.loras_volume, create_if_missing=True)
app = modal.App(PLAN.app, image=image)


@app.cls(
    gpu=PLAN.gpu or None,
    cpu=PLAN.cpu,
    memory=PLAN.memory,
    volumes={str(VOLUME): models.with_mount_options(read_only=True), str(LORAS): loras},
    secrets=[modal.Secret.from_name(PLAN.secret, required_keys=["RYLA_TOKEN"])],
    min_containers=PLAN.min_containers,
    max_containers=PLAN.max_containers,
    scaledown_window=PLAN.scaledown_window,
    startup_timeout=PLAN.start_within + 60,
    timeout=PLAN.timeout + 60,
    enable_memory_snapshot=PLAN.snapshot,
)
@modal.concurrent(max_inputs=PLAN.requests, target_inputs=PLAN.crowded)
class Gateway:
    """``POST /flux-dev`` and its like, at one address over HTTPS."""

    @modal.enter(snap=True)
    def load(self) -> None:
        """What the snapshot keeps: imports, and nothing else. An id or a seed drawn here would be every container's."""
        from ryla_nodes.cli.deploy import modal_host

        self._host = modal_host

    @modal.enter()
    async def start(self) -> None:
        """After a start or a restore: the engine, its warm-up, the gateway."""
        self._container = self._host.Container(PLAN, COMFYUI, STATE, loras.reload.aio)
        await self._container.start()

    @modal.asgi_app()
    def serve(self) -> Callable[..., Awaitable[None]]:
        """The gateway."""
        return self._container.app

    @modal.exit()
    async def stop(self) -> None:
        """End the jobs that the engine has, and the engine."""
        await self._container.stop()


if PLAN.engine == "comfyui":

    @app.function(
        volumes={str(VOLUME): models},
        secrets=[modal.Secret.from_name(PLAN.hub_secret, required_keys=["HF_TOKEN"])],
        timeout=6 * 3600,
    )
    def install(names: str) -> None:
        """``modal run deploy/modal_app.py::install --names flux-dev,flux-instantid``: weights to the volume."""
        words = ["models", "install", *names.split(","), "--volume", str(VOLUME), "--yes"]
        try:
            subprocess.run([sys.executable, "-c", "from ryla_nodes.cli.app import main; main()", *words], check=True)
        finally:
            models.commit()  # What came is kept: the same command goes on from there.
