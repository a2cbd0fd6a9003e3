"""RYLA_PREFETCH: which files it means, and the process that reads them."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from ryla_nodes import settings
from ryla_nodes.models import page_cache
from ryla_nodes.models.folders import at_root
from ryla_nodes.workflows import prefetch, start_files

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


def test_one_thread_reads_until_the_disk_is_free_and_then_several(monkeypatch: pytest.MonkeyPatch) -> None:
    free, names = threading.Event(), []

    def read(part: page_cache.Part) -> int:
        names.append(threading.current_thread().name)
        if len(names) == 20:
            free.set()
        time.sleep(0.01)
        return part.end - part.start

    monkeypatch.setattr(page_cache, "_read", read)
    monkeypatch.setattr(page_cache, "_CHUNK", 10)
    assert page_cache.fill([page_cache.Part(Path("any"), 0, 1005)], limit=2000, free=free) == 1005
    assert len(names) == 101
    assert len(set(names[:20])) == 1 and len(set(names)) == page_cache.THREADS


def test_a_file_is_asked_for_when_it_is_its_turn(volume: Path) -> None:
    """So what becomes needless meanwhile can be left out."""
    asked: list[int] = []

    def parts() -> Iterator[page_cache.Part]:
        for number in range(100):
            asked.append(number)
            yield page_cache.whole(volume / "vae/ae.safetensors")

    page_cache.fill(parts(), limit=3 * 40_000, threads=1)
    assert len(asked) <= 4


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
reader = getattr(sys.modules.get("_ryla_prefetch"), "_process", None)
if reader is not None:
    reader.wait(20)
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


def read_for_an_engine(volume: Path, monkeypatch: pytest.MonkeyPatch, heard: str) -> list[tuple[str, str]]:
    """What the process reads for flux-dev, a kilobyte at a time, and in which thread; the engine says one word."""
    read: list[tuple[str, str]] = []

    def note(part: page_cache.Part) -> int:
        read.append((part.path.name, threading.current_thread().name))
        time.sleep(0.002)
        return 0

    monkeypatch.setattr(page_cache, "_read", note)
    monkeypatch.setattr(page_cache, "_CHUNK", 1000)
    monkeypatch.setenv("RYLA_VOLUME", str(volume))
    monkeypatch.setattr(os, "nice", lambda _: 0)
    inside, outside = os.pipe()
    with os.fdopen(inside) as pipe, os.fdopen(outside, "w") as parent:
        monkeypatch.setattr(sys, "stdin", pipe)
        monkeypatch.setattr(prefetch, "_listen", lambda events: events[heard].set())
        parent.write(json.dumps({"names": ["flux-dev"], "folders": {}}) + "\n")
        parent.flush()
        prefetch.main()
    return read


def test_one_thread_reads_weights_until_what_the_engine_is_made_of_is_read(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has not said that it is up."""
    own = volume / "module.pyc"
    start_files.path_of(volume).parent.mkdir()
    noted = [[str(own), 0, 20_000], ["/absent", 0, 9], str(own), [3, 0, 1], [str(own), 9, 9], 3]
    start_files.path_of(volume).write_text(json.dumps(noted))
    read = read_for_an_engine(volume, monkeypatch, "eighths")
    assert sum(name == "module.pyc" for name, _ in read) == 20 and sum(name == "absent" for name, _ in read) == 1
    last = max(number for number, (name, _) in enumerate(read) if name in ("module.pyc", "absent"))
    before, after = (
        [thread for name, thread in part if name.endswith(".safetensors")] for part in (read[:last], read[last:])
    )
    assert len(set(before)) <= 1 and len(set(after)) == page_cache.THREADS and len(before + after) == 4 * 40


def test_where_nothing_is_noted_one_thread_reads_until_the_engine_is_up(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len({thread for _, thread in read_for_an_engine(volume, monkeypatch, "eighths")}) == 1
    assert len({thread for _, thread in read_for_an_engine(volume, monkeypatch, "ready")}) == page_cache.THREADS


def test_a_program_notes_its_modules_and_libraries(tmp_path: Path) -> None:
    found = start_files.used()
    paths = [part.path for part in found]
    assert Path(prefetch.__cached__) in paths or Path(prefetch.__file__) in paths
    assert all(path.is_file() for path in paths[:200])
    if sys.platform == "linux":
        assert any(".so" in path.name for path in paths)
    size = start_files.note(tmp_path)
    assert start_files.known(tmp_path)[:100] == found[:100]
    start_files.path_of(tmp_path).unlink()
    assert start_files.note(tmp_path, 2 * size) >= size and start_files.known(tmp_path) == []
    start_files.path_of(tmp_path).write_text("{")
    assert start_files.known(tmp_path) == [] == start_files.known(None)


@pytest.mark.skipif(sys.platform != "linux", reason="Does not apply: only Linux tells what is mapped")
@pytest.mark.parametrize("told", [True, False])
def test_of_a_library_only_what_is_used_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """Most of a library is never looked at; where the system does not tell what is used all is read."""
    size, used = (64 << 20) + 1000, (0, 1 << 20, 40 << 20, 64 << 20)
    library = tmp_path / "large.so.1"
    with library.open("wb") as file:
        file.truncate(size)
    if not told:
        monkeypatch.setattr(start_files, "_PAGES", tmp_path / "absent")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert [mapped[place] for place in used] == [0] * 4
        found = [(part.start, part.end) for part in start_files.used() if part.path == library]
    assert all(any(start <= place < end for start, end in found) for place in used)
    assert found[-1][1] == size and len(found) == (3 if told else 1)
    assert (sum(end - start for start, end in found) < 4 << 20) is told


def test_compiled_modules_are_noted_where_no_system_tells_what_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS; elsewhere each is noted by what is used of it, and not as a whole beside that."""
    module = tmp_path / "compiled.so"
    module.write_bytes(bytes(9000))
    monkeypatch.setitem(sys.modules, "compiled", types.SimpleNamespace(__file__=str(module)))
    mapped = {str(module.resolve()): [start_files._Mapping(0, 0, 0)]}
    for mappings, found in (({}, [page_cache.whole(module)]), (mapped, [])):
        monkeypatch.setattr(start_files, "_mappings", lambda mappings=mappings: mappings)
        assert [part for part in start_files.used() if part.path == module] == found


_READING = """
import importlib.util, json, os, sys, time, types
sys.path.insert(0, sys.argv[1])
sys.modules["folder_paths"] = types.SimpleNamespace(folder_names_and_paths={})
spec = importlib.util.spec_from_file_location("x/prestartup_script", sys.argv[1] + "/ryla_nodes/prestartup_script.py")
spec.loader.exec_module(importlib.util.module_from_spec(spec))
os.chdir(sys.argv[2])
for odd in ((), ("first.txt",), ("first.txt", b"r", None), (3, None, 0), ("first.txt", None, "flags")):
    sys.audit("open", *odd)
for name in ("first.txt", "weights.bin", "second.txt"):
    open(name).close()
open("written.txt", "w").close()
os.close(os.open("third.txt", os.O_RDONLY))
os.remove("gone.txt") if open("gone.txt").close() is None else None
from ryla_nodes.workflows import prefetch, start_files
start_files._EVERY_S, start_files._TIMES = 0.01, 1
from pathlib import Path
noting = start_files.keep_noting(Path(sys.argv[3]), sys.modules["_ryla_prefetch"]._opened)
noting.join()
print(json.dumps([str(part.path) for part in start_files.known(Path(sys.argv[3]))]))
"""


def test_what_it_read_is_noted_as_well_but_for_weights(tmp_path: Path) -> None:
    """Some libraries read thousands of files that are no modules of theirs; transformers its own sources."""
    folder, volume = tmp_path / "read", tmp_path / "volume"
    folder.mkdir()
    for name in ("first.txt", "second.txt", "third.txt", "gone.txt", "unread.txt"):
        (folder / name).write_text("text")
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(start_files._LARGEST + 1)
    command = [sys.executable, "-c", _READING, str(PACKAGE.parent), str(folder), str(volume)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RYLA_")}
    environ |= {"RYLA_PREFETCH": "ae", "RYLA_VOLUME": str(volume)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    noted = [Path(name) for name in json.loads(done.stdout)]
    own = [path.name for path in noted if path.parent == folder]
    assert own == ["first.txt", "second.txt", "third.txt"], done.stderr


def test_the_engine_says_that_it_has_started_and_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Path] = []
    monkeypatch.setattr(start_files, "keep_noting", lambda path, opened: noted.append(path))
    prefetch.ready(tmp_path)
    assert noted == [], "nobody reads ahead"
    code = "import sys; print([sys.stdin.readline() for _ in range(2)], flush=True)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        # ComfyUI's prestartup runs the file under another name than the package.
        monkeypatch.setitem(sys.modules, "_ryla_prefetch", types.SimpleNamespace(_process=process))
        prefetch.ready(tmp_path)
        prefetch.eighths_are_used()
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read().strip() == r"['ready\n', 'eighths\n']"
        process.wait()
        prefetch.eighths_are_used()  # It is gone.
    assert noted == [tmp_path]


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
    code = "import time; from ryla_nodes.workflows.prefetch import _listen, threading; "
    code += "threading.Thread(target=_listen, args=({},)).start(); time.sleep(60)"
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(PACKAGE.parent)!r}); {code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        time.sleep(0.5)
        assert process.poll() is None and process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
