"""The Python that runs ComfyUI: which one, and whether the packages in it go together."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .finding import Finding, ok, problem, warning

_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_INSIGHTFACE = (2, 0)
_TIMEOUT = 180


@dataclass(frozen=True)
class Python:
    """What ``probe.py`` found out about a Python."""

    path: Path
    version: tuple[int, ...]
    distributions: Mapping[str, str]
    broken: Mapping[str, str]
    providers: tuple[str, ...]
    torch_cuda: str | None
    cuda_fault: str

    def pip(self, arguments: str) -> str:
        """The command that runs pip in it."""
        return f"{self.path} -m pip {arguments}"


def ask(python: Path) -> Python | Finding:
    """Run the probe in ``python``; a finding when that fails."""
    script = Path(__file__).with_name("probe.py")
    try:
        done = subprocess.run([python, script], capture_output=True, text=True, timeout=_TIMEOUT, check=True)
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip().splitlines() or [f"exit status {error.returncode}"]
        return problem("python", f"{python} does not work: {reason[-1]}", "ryla comfyui install")
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return problem("python", f"{python} does not work: {error}", "ryla comfyui install")
    return Python(
        path=python,
        version=tuple(found["version"]),
        distributions=found["distributions"],
        broken=found["broken"],
        providers=tuple(found["providers"]),
        torch_cuda=found["torch_cuda"],
        cuda_fault=found["cuda_fault"],
    )


def check(python: Python, gpu: bool, faces: bool) -> Iterator[Finding]:
    """The packages of ComfyUI's Python; ``faces``: a workflow in question needs InsightFace."""
    version = ".".join(map(str, python.version))
    yield ok("python", f"{python.path} ({version})")
    yield _requirements(python)
    yield _torch(python, gpu)
    yield _opencv(python)
    if faces:
        yield _onnxruntime(python, gpu)
        yield _insightface(python)


def _requirements(python: Python) -> Finding:
    from packaging.requirements import Requirement

    lacking = []
    for text in importlib.metadata.requires("ryla-nodes") or []:
        needed = Requirement(text)
        environment = {"extra": "", "python_version": ".".join(map(str, python.version[:2]))}
        if needed.marker is None or needed.marker.evaluate(environment):
            have = python.distributions.get(needed.name.replace("_", "-").lower())
            if have is None or not needed.specifier.contains(have, prereleases=True):
                lacking.append(f"{needed.name}{needed.specifier}")
    if not lacking:
        return ok("requirements", "all of the pack's packages are there")
    quoted = " ".join(f"'{item}'" for item in lacking)
    return problem("requirements", f"ComfyUI's Python lacks {', '.join(lacking)}.", python.pip(f"install {quoted}"))


def _torch(python: Python, gpu: bool) -> Finding:
    have = python.distributions.get("torch")
    if have is None:
        return problem("torch", "ComfyUI's Python has no torch.", "ryla comfyui install")
    if gpu and python.torch_cuda is None:
        return problem(
            "torch",
            f"torch {have} is built for the CPU, and this machine has an NVIDIA GPU.",
            "ryla comfyui install --nvidia",
        )
    return ok("torch", f"{have} (CUDA {python.torch_cuda})" if python.torch_cuda else f"{have} (CPU)")


def _opencv(python: Python) -> Finding:
    there = [name for name in _OPENCV if name in python.distributions]
    if len(there) > 1:
        fix = f"{python.pip('uninstall -y ' + ' '.join(there))} && {python.pip('install opencv-python-headless')}"
        return problem("opencv", f"{' and '.join(there)} overwrite each other's files.", fix)
    if "cv2" in python.broken:
        fix = python.pip("install --force-reinstall --no-deps opencv-python-headless")
        return problem("opencv", f"cv2 cannot be imported: {python.broken['cv2']}", fix)
    return ok("opencv", there[0] if there else "none (none is needed without faces)")


def _onnxruntime(python: Python, gpu: bool) -> Finding:
    there = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in python.distributions]
    if len(there) == 2:
        wanted = "onnxruntime-gpu" if gpu else "onnxruntime"
        fix = f"{python.pip('uninstall -y onnxruntime onnxruntime-gpu')} && {python.pip(f'install {wanted}')}"
        return problem("onnxruntime", "onnxruntime and onnxruntime-gpu overwrite each other's files.", fix)
    if not there:
        return warning("onnxruntime", "onnxruntime is not installed; faces need it.", python.pip("install onnxruntime"))
    if "onnxruntime" in python.broken:
        fix = python.pip(f"install --force-reinstall --no-deps {there[0]}")
        return problem("onnxruntime", f"onnxruntime cannot be imported: {python.broken['onnxruntime']}", fix)
    providers = ", ".join(python.providers)
    if there == ["onnxruntime-gpu"] and "CUDAExecutionProvider" not in python.providers:
        fix = python.pip("install --force-reinstall --no-deps onnxruntime-gpu")
        return warning("onnxruntime", f"onnxruntime-gpu offers no CUDA, only {providers}.", fix)
    if gpu and python.cuda_fault:
        message = f"onnxruntime cannot use CUDA, so faces are analysed on the CPU: {python.cuda_fault}."
        wanted = f"Install an onnxruntime-gpu for CUDA {python.torch_cuda}" if python.torch_cuda else "Install CUDA"
        return warning("onnxruntime", message, f"{wanted}, or leave face_provider at CPU.")
    return ok("onnxruntime", f"{there[0]} {python.distributions[there[0]]}: {providers}")


def _insightface(python: Python) -> Finding:
    have = python.distributions.get("insightface")
    install = python.pip("install 'insightface>=2.0'")
    if have is None:
        return warning("insightface", "insightface is not installed; the InstantID workflows need it.", install)
    if "insightface" in python.broken:
        fix = python.pip("install --upgrade --force-reinstall 'insightface>=2.0'")
        return problem("insightface", f"insightface cannot be imported: {python.broken['insightface']}", fix)
    if tuple(int(part) for part in have.split(".")[:2]) < _INSIGHTFACE:
        return problem("insightface", f"insightface {have} is older than 2.0.", f"{install} --upgrade")
    return ok("insightface", have)
