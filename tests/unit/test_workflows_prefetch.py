"""RYLA_PREFETCH: which files it means, and the process that reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ryla_nodes import settings
from ryla_nodes.models import page_cache
from ryla_nodes.models.folders import at_root
from ryla_nodes.workflows import prefetch

PACKAGE = Path(prefetch.__file__).resolve().parents[1]
PARTS = ("diffusion_models/flux1-dev", "text_encoders/clip_l", "text_encoders/t5xxl_fp16", "vae/ae")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    for name in PARTS:
        path = root / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(40_000))
    return root


def test_a_workflow_means_the_files_of_its_models(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(prefetch.files(["nonsense", "flux-dev", "ae"], at_root(volume)))
    assert sorted(found) == sorted(volume / f"{name}.safetensors" for name in PARTS)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "'nonsense'" in said[0]


def test_absent_models_are_passed_over(volume: Path) -> None:
    (volume / "vae" / "ae.safetensors").unlink()
    assert len(list(prefetch.files(["flux-dev"], at_root(volume)))) == len(PARTS) - 1


def test_what_is_not_cached_is_read_and_what_is_cached_is_passed_over(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [volume / f"{name}.safetensors" for name in PARTS]
    parts = [page_cache.Part(volume / "absent", 0, 1000), *map(page_cache.whole, paths)]
    with monkeypatch.context() as patch:
        patch.setattr(page_cache, "_is_cached", lambda *_: False)
        assert page_cache.fill(parts, limit=10**9) == 4 * 40_000
        assert page_cache.fill(parts[1:], limit=50_000) == 50_000
    if not is_cached(paths[0]):
        pytest.skip("Does not apply: this file system does not tell what is in its cache")
    assert page_cache.fill(parts, limit=10**9) == 0


def is_cached(path: Path) -> bool:
    with path.open("rb") as file:
        return page_cache._is_cached(file.fileno(), 0, path.stat().st_size)


def test_the_free_memory_is_known() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("Does not apply: this system has no /proc")
    assert 0 < page_cache.available_memory() < 1 << 50


def prestartup(environ: dict[str, str], *, comfyui: bool = True) -> tuple[float, list[str], str]:
    """Run the script as ComfyUI does: its seconds, what it imported of torch or of us, what was said."""
    code = f"""
import importlib.util, json, sys, time, types
if {comfyui}:
    sys.modules["folder_paths"] = types.SimpleNamespace(folder_names_and_paths={{"vae": (["/nowhere"], set())}})
began = time.perf_counter()
spec = importlib.util.spec_from_file_location("x/prestartup_script", {str(PACKAGE / "prestartup_script.py")!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
took = time.perf_counter() - began
time.sleep(3 if {"RYLA_PREFETCH" in environ} else 0)
print(json.dumps([took, [name for name in sys.modules if name.startswith(("torch", "ryla_nodes", "subprocess"))]]))
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    done = subprocess.run([sys.executable, "-c", code], env=clean | environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    took, modules = json.loads(done.stdout)
    return took, modules, done.stderr


def test_nothing_happens_when_it_is_not_set() -> None:
    took, modules, said = prestartup({})
    assert modules == [] and said == "" and took < 0.05


def test_nothing_happens_outside_of_comfyui() -> None:
    assert prestartup({"RYLA_PREFETCH": "flux-dev"}, comfyui=False)[1] == []


def test_comfyui_goes_on_while_the_files_are_read(volume: Path) -> None:
    paths = [volume / f"{name}.safetensors" for name in PARTS]
    for path in paths:
        os.utime(path, (0, 1))
    took, modules, said = prestartup({"RYLA_PREFETCH": "flux-dev,nonsense", "RYLA_VOLUME": str(volume)})
    assert [name for name in modules if name.startswith(("torch", "ryla_nodes"))] == []
    assert took < 0.5 and said.count("\n") == 1 and "'nonsense'" in said
    probe = volume / "probe"
    probe.write_bytes(b"x")
    os.utime(probe, (0, 1))
    if probe.read_bytes() and probe.stat().st_atime == 0:
        pytest.skip("Does not apply: this file system does not note when a file is read")
    assert all(path.stat().st_atime > 0 for path in paths)


@pytest.mark.parametrize(
    ("setting", "card", "names"),
    [("", False, None), ("", True, ("flux-dev",)), ("ae", False, ("ae",)), ("ae", True, ("ae",))],
)
def test_the_embedded_engine_on_a_card_reads_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, card: bool, names: tuple[str, ...] | None
) -> None:
    device, started = tmp_path / "nvidiactl", []
    if card:
        device.touch()
    monkeypatch.setattr(prefetch, "_NVIDIA", (str(device),))
    monkeypatch.setattr(prefetch, "start", lambda folders, names: started.append(names))
    prefetch.start_for_embedded(settings.load({"RYLA_PREFETCH": setting, "RYLA_VOLUME": str(tmp_path)}))
    assert started == ([] if names is None else [names])


def test_the_process_ends_with_its_parent() -> None:
    code = "import time; from ryla_nodes.workflows.prefetch import _end_with_parent, threading; "
    code += "threading.Thread(target=_end_with_parent).start(); time.sleep(60)"
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(PACKAGE.parent)!r}); {code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        time.sleep(0.5)
        assert process.poll() is None and process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
