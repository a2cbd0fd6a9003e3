"""The speed modes on the embedded engine, and what they are made of: 8-bit products and the cache of compiled code."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_models
import tiny_flux
import torch
from ryla_nodes import settings
from ryla_nodes.engines.embedded import inference
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.embedded.inference import demo_lora as demo
from ryla_nodes.engines.embedded.inference import speed, weights
from ryla_nodes.engines.protocol import running_in
from ryla_nodes.engines.speed import ahead, cache, compiler, fp8, layers, machine, report, warming
from ryla_nodes.models.headers import read_header
from ryla_nodes.nodes.flux import FluxSpeed
from ryla_nodes.nodes.lora import LoraLoader
from ryla_nodes.workflows import manifest
from ryla_nodes.workflows.workflow import bind
from safetensors.torch import load_file, save_file

Loaded = tuple[Any, Any, Any]
CPU = torch.device("cpu")


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def latent(loaded: Loaded, model: Any, **how: Any) -> torch.Tensor:
    return small_models.latent((model, *loaded[1:]), **how)


def test_a_cpu_is_refused_in_one_line_and_the_model_is_the_same(engine: EmbeddedEngine, loaded: Loaded) -> None:
    with running_in(engine):
        out = FluxSpeed.execute(loaded[0], "fast")
    assert out.result == (loaded[0],)
    assert out.ui == {
        "text": ["Speed fast is not used, the model is unchanged: the model runs on cpu, not on an NVIDIA GPU."]
    }


def test_off_needs_nothing_of_the_modes(
    engine: EmbeddedEngine, loaded: Loaded, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = engine.accelerate(loaded[0], "fast")[0]
    assert fast.accelerated and not engine.accelerate(fast, "off")[0].accelerated
    monkeypatch.setitem(sys.modules, speed.__name__, None)
    monkeypatch.delattr(inference, "speed")
    assert engine.accelerate(loaded[0], "off") == (loaded[0], "Speed off.")


def test_exact_paints_what_off_paints_and_fast_nearly(loaded: Loaded, graphs: list[Any]) -> None:
    plain = latent(loaded, loaded[0])
    exact, fast = (speed.accelerate(loaded[0], mode)[0] for mode in ("exact", "fast"))  # type: ignore[arg-type]
    assert error(latent(loaded, exact), plain) < 1e-4
    assert 1e-4 < error(latent(loaded, fast), plain) < 0.1
    assert torch.equal(latent(loaded, loaded[0]), plain)
    back, line = speed.accelerate(fast, "off")
    assert line == "Speed off." and torch.equal(latent(loaded, back), plain)


def test_one_graph_of_each_kind_of_block_serves_all_sizes(loaded: Loaded, graphs: list[Any]) -> None:
    exact = speed.accelerate(loaded[0], "exact")[0]
    latent(loaded, exact)
    assert len(graphs) == 2
    for size in ((96, 64), (64, 128), (80, 80)):
        latent(loaded, exact, size=size)
    assert len(graphs) == 2


def test_a_lora_before_and_after_is_the_same(
    engine: EmbeddedEngine, loaded: Loaded, graphs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RYLA_VOLUME", str(tmp_path))
    (tmp_path / "loras").mkdir()
    header = read_header(tiny_flux.files(engine.home / "models").transformer)
    demo.write(tmp_path / "loras" / "7.safetensors", header, "kohya", "ohwx")

    def with_lora(model: Any) -> Any:
        return LoraLoader.execute(model, "7", 1.0, "error", loaded[1]).result[0]

    with running_in(engine):
        wanted = latent(loaded, with_lora(loaded[0]))
        before = latent(loaded, speed.accelerate(with_lora(loaded[0]), "fast")[0])
        after = latent(loaded, with_lora(speed.accelerate(loaded[0], "fast")[0]))
    assert torch.equal(before, after)
    assert error(after, wanted) < 0.1
    assert error(wanted, latent(loaded, loaded[0])) > error(after, wanted)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_what_a_lora_has_beside_the_model_s_layers_is_reported_and_does_no_harm(
    engine: EmbeddedEngine,
    loaded: Loaded,
    graphs: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Any,
) -> None:
    monkeypatch.setenv("RYLA_VOLUME", str(tmp_path))
    (tmp_path / "loras").mkdir()
    whole, cut = tmp_path / "loras" / "whole.safetensors", tmp_path / "loras" / "beside.safetensors"
    demo.write(whole, read_header(tiny_flux.files(engine.home / "models").transformer), "kohya", "ohwx")
    tensors = load_file(whole)
    stranger = {f"lora_unet_double_blocks_18_{name}": value for name, value in _pair(tensors).items()}
    save_file(tensors | stranger, cut)
    with running_in(engine):
        fast = speed.accelerate(loaded[0], mode)[0]
        found = engine.apply_lora(fast, None, cut, 1.0, 1.0)
        wanted = engine.apply_lora(fast, None, whole, 1.0, 1.0)
    assert set(found.unmatched) == set(stranger) and found.matched_model == wanted.matched_model
    assert torch.equal(latent(loaded, found.model), latent(loaded, wanted.model))


def _pair(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A module of a LoRA by the ends of its names."""
    first = next(name for name in tensors if name.endswith(".lora_down.weight")).removesuffix(".lora_down.weight")
    mine = {name.removeprefix(first): value for name, value in tensors.items() if name.startswith(f"{first}.")}
    return {f"img_attn_qkv{end}": value.clone() for end, value in mine.items()}


def test_the_real_compiler_gives_the_same(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "refusal", lambda mode, device: None)
    plain = latent(loaded, loaded[0])
    assert error(latent(loaded, speed.accelerate(loaded[0], "exact")[0]), plain) < 1e-3


def test_what_cannot_be_compiled_runs_as_it_is(
    loaded: Loaded, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(function: Any) -> Any:
        def call(*_: Any) -> Any:
            raise torch._dynamo.exc.BackendCompilerFailed(broken, RuntimeError("no room"), None)  # type: ignore[arg-type]

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiler, "_failed", {})
    plain = latent(loaded, loaded[0])
    assert error(latent(loaded, speed.accelerate(loaded[0], "exact")[0]), plain) < 1e-4
    assert compiler._failed


def test_the_gelu_with_a_sigmoid_is_the_one_with_tanh() -> None:
    for dtype, rounding in ((torch.float32, 1e-5), (torch.bfloat16, 2**-8)):
        x = torch.linspace(-30, 30, 20001).to(dtype)
        truth = torch.nn.functional.gelu(x.double(), approximate="tanh")
        made = fp8.GELU(x)
        assert made.dtype == dtype
        assert ((made.double() - truth).abs() <= rounding * truth.abs() + 1e-6).all()


def test_a_batch_runs_sample_by_sample_in_the_same_graph(loaded: Loaded, graphs: list[Any]) -> None:
    exact = speed.accelerate(loaded[0], "exact")[0]
    x, sigma = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(0.7)
    conditioning = loaded[1].encode(loaded[1].tokenize("a red cat"))
    made = exact.denoise(x, sigma, conditioning, False)
    assert error(made, loaded[0].denoise(x, sigma, conditioning, False)) < 1e-4
    exact.denoise(x[:1], sigma, conditioning, False)
    assert len(graphs) == 2


def test_rows_are_rounded_within_a_sixteenth() -> None:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 64)[:, None]
    x[3] = 0
    values, scale = fp8.quantised(x)
    back = values.float() * scale
    assert values.dtype == fp8.DTYPE and torch.isfinite(back).all()
    assert ((back - x).abs() <= x.abs() / 16 + scale * 2**-9).all()
    assert (back[3] == 0).all()


def test_a_layer_with_its_input_in_parts_is_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 32)
    layer = fp8.Fp8Linear(linear, (32, 64))
    first, second = torch.randn(2, 5, 32), torch.randn(2, 5, 64) * 50
    both = torch.cat((first, second), -1)
    assert torch.equal(layer(first, second), layer(both))
    assert error(layer(both), linear(both)) < 0.05
    with torch.no_grad():
        linear.weight *= 3
        linear.bias += 1
    layer.take(linear)
    assert error(layer(both), linear(both)) < 0.05


def test_a_layer_with_gelu_inside_is_gelu_and_then_the_layer() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 32)
    first, second = torch.randn(2, 5, 32), torch.randn(2, 5, 64) * 5
    inside, plain = (fp8.Fp8Linear(linear, (32, 64), gelu=gelu) for gelu in (True, False))
    wanted = plain(first, fp8.GELU(second))
    assert torch.equal(inside(first, second), wanted)
    assert torch.equal(inside(torch.cat((first, second), -1)), wanted)
    one = torch.nn.Linear(64, 32)
    assert torch.equal(fp8.Fp8Linear(one, gelu=True)(second), fp8.Fp8Linear(one)(fp8.GELU(second)))


def test_gelu_moves_into_the_8_bit_layers_behind_it_and_stays_before_others(loaded: Loaded) -> None:
    module = copy.deepcopy(loaded[0].transformer.network.base)
    blocks = module.double_blocks, module.single_blocks
    places = list(layers.places(*blocks))
    inside = [place for place in places if place.gelu]
    assert len(inside) == 2 * len(module.double_blocks) + len(module.single_blocks)
    left = inside[0]
    for place in places:
        if place is not left:
            place.put(fp8.Fp8Linear(place.linear, place.widths, gelu=place.gelu))
    stays = [layers.instead_of_gelu(parent, name) for parent, name, _ in layers.gelus(*blocks)]
    assert len(stays) == len(inside) and [each for each in stays if each is fp8.GELU] == [fp8.GELU]


def test_a_graph_says_which_modes_it_asks_for() -> None:
    def node(mode: Any) -> dict[str, Any]:
        return {"class_type": "RYLA_FluxSpeed", "inputs": {"mode": mode, "model": ["1", 0]}}

    assert report.asked({"1": node("fast"), "2": node("off"), "3": node(["4", 0])}) == {"fast"}
    assert report.asked({"1": node("exact"), "2": node("fast")}) == {"exact", "fast"}
    for other in (None, [], "fast", {"1": None}, {"1": {"class_type": "RYLA_FluxSpeed"}}, {"1": node({})}):
        assert report.asked(other) == set()


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_compiler_is_made_ready_by_a_block_of_its_own(loaded: Loaded, graphs: list[Any], mode: Any) -> None:
    warming.warm(mode, CPU, None)
    assert len(graphs) == 1
    latent(loaded, speed.accelerate(loaded[0], mode)[0])
    assert len(graphs) == 3, "the model's blocks have their graphs as ever"


def test_a_machine_that_cannot_compile_makes_nothing_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: pytest.fail("compiled"))
    warming.warm("fast", CPU, None)


@pytest.mark.usefixtures("clean")
def test_what_is_made_ready_is_waited_for_before_blocks_are_compiled(
    loaded: Loaded, graphs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RYLA_VOLUME", str(tmp_path))
    monkeypatch.setattr(ahead, "_threads", {})
    begun, may_end, order = threading.Event(), threading.Event(), []

    def warm(mode: str, device: torch.device, volume: Path) -> None:
        begun.set()
        may_end.wait(30)
        cache.use(volume, "inductor-small")
        order.append((mode, device, len(graphs)))

    monkeypatch.setattr(warming, "warm", warm)
    for _ in range(2):
        ahead.begin(["exact"], lambda: CPU)
    assert begun.wait(30) and order == [], "the caller goes on"
    exact = speed.accelerate(loaded[0], "exact")[0]
    threading.Timer(0.5, may_end.set).start()
    latent(loaded, exact)
    assert order == [("exact", CPU, 0)] and len(graphs) == 2
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith(exact.transformer.network.cache_name)


def test_a_submitted_job_has_the_compiler_made_ready(
    engine: EmbeddedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(ahead, "begin", lambda modes, device: asked.append((modes, device())))
    monkeypatch.setenv("RYLA_VOLUME", str(tmp_path))
    engine.expect({"1": {"class_type": "RYLA_FluxSpeed", "inputs": {"mode": "off"}}})
    assert asked == []
    engine.expect({"1": {"class_type": "RYLA_FluxSpeed", "inputs": {"mode": "fast"}}})
    assert asked == [({"fast"}, weights.best().device)]


@pytest.mark.parametrize(
    ("name", "modes"), [("flux-instantid", {"exact"}), ("sdxl-instantid", set()), ("flux-dev", {"exact"})]
)
def test_only_flux_needs_the_compiler(name: str, modes: set[str]) -> None:
    """SDXL is not compiled, at whatever node it passes by."""
    photo = Path(__file__).parents[2] / "custom_nodes/ryla_nodes/identity/drawn_people/01-reference-1.webp"
    values = {"prompt": "a face", "speed": "exact", "reference_image": str(photo)}
    workflow = manifest.load(name, settings.load({}))
    graph = bind(workflow, {key: value for key, value in values.items() if workflow.parameter(key)}).graph
    assert {node["inputs"]["mode"] for node in graph.values() if node["class_type"] == "RYLA_FluxSpeed"} == {"exact"}
    assert report.asked(graph) == modes


@pytest.mark.parametrize(
    "prompt", [None, [], {"1": 2}, {"1": {"class_type": 3, "inputs": {}}}, {"1": {"class_type": "RYLA_FluxSpeed"}}]
)
def test_whatever_is_submitted_can_be_asked(prompt: Any) -> None:
    assert report.asked(prompt) == set()


def test_a_graph_that_runs_in_a_circle_can_be_asked() -> None:
    speed = {"class_type": "RYLA_FluxSpeed", "inputs": {"mode": "fast", "model": ["1", 0]}}
    assert report.asked({"1": speed}) == {"fast"}
    assert report.asked({"1": speed | {"inputs": {"mode": [], "model": [{}]}}}) == set()


def test_all_matrices_of_the_blocks_but_modulation_are_chosen(loaded: Loaded) -> None:
    module = loaded[0].transformer.network.base
    places = list(layers.places(module.double_blocks, module.single_blocks))
    names = {name for name, child in module.named_modules() if isinstance(child, torch.nn.Linear) and "blocks" in name}
    chosen = {id(place.linear) for place in places}
    left = {name for name, child in module.named_modules() if name in names and id(child) not in chosen}
    assert left and all(name.endswith("mod.lin") or name.endswith("modulation.lin") for name in left)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for key in cache._VARIABLES:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(cache, "_ours", {})
    cache._prepare.cache_clear()
    yield
    for key in cache._VARIABLES:
        os.environ.pop(key, None)
    cache._prepare.cache_clear()


@pytest.mark.usefixtures("clean")
def test_compiled_code_is_kept_on_the_volume(tmp_path: Path) -> None:
    name = cache.name_of(CPU, "exact", (3072, 19, 38))
    assert name != cache.name_of(CPU, "fast", (3072, 19, 38))
    assert cache.use(None, name) == "" and "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert cache.use(tmp_path, name) == ""
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == tmp_path / "cache" / name
    assert cache.use(tmp_path, "inductor-other") == ""
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith("inductor-other")


@pytest.mark.usefixtures("clean")
def test_a_folder_that_the_user_chose_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    assert cache.use(tmp_path, "inductor-1") == ""
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere" and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("clean")
def test_the_place_that_the_compiler_chose_by_itself_is_not_taken_for_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its default into the environment as soon as anything asks it where it keeps things."""
    from torch._inductor.runtime import cache_dir_utils

    monkeypatch.setattr(cache_dir_utils.tempfile, "tempdir", str(tmp_path))
    cache_dir_utils.cache_dir()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert cache.use(tmp_path / "volume", "inductor-1") == ""
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == tmp_path / "volume" / "cache" / "inductor-1"


@pytest.mark.usefixtures("clean")
def test_a_volume_that_takes_nothing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.use(tmp_path, "inductor-1") == ""
    (tmp_path / "file").touch()
    assert cache.use(tmp_path / "file", "inductor-1").startswith("compiled code is not kept: ")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    monkeypatch.setattr(cache, "_FREE_BYTES", 1 << 60)
    assert "MiB left" in cache.use(tmp_path, "inductor-2")


def test_the_folders_not_used_for_longest_go_first(tmp_path: Path) -> None:
    for number, age in enumerate((90000, 80000, 70000, 10)):
        folder = tmp_path / f"inductor-{number}"
        folder.mkdir()
        (folder / "code").write_bytes(b"x" * 100)
        when = folder.stat().st_mtime - age
        os.utime(folder, (when, when))
    cache.bound(tmp_path, 250)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["inductor-2", "inductor-3"]
    cache.bound(tmp_path, 0)
    assert [folder.name for folder in tmp_path.iterdir()] == ["inductor-3"], "another process may be writing there"


_COMPILE = """
import sys
from pathlib import Path
import torch
from ryla_nodes.engines.speed import cache
said = cache.use(Path(sys.argv[1]), "inductor-both")
made = torch.compile(lambda x: (x * 2 + 1).relu().sum(-1))(torch.arange(64.0).view(8, 8))
print(said or float(made.sum()))
"""


def test_two_processes_compile_into_one_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _COMPILE, str(tmp_path)]
    # Tests of this process, too, let the compiler keep things in a folder of theirs.
    unset = {key: value for key, value in os.environ.items() if key not in cache._VARIABLES}
    for _ in range(2):  # Into an empty one, then from a filled one.
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unset) for _ in range(2)]
        assert [process.communicate(timeout=280)[0].strip() for process in both] == ["4096.0", "4096.0"]
    assert any((tmp_path / "cache" / "inductor-both").rglob("*.so"))


@pytest.mark.parametrize(
    ("changes", "mode", "word"),
    [
        ({"sys.platform": "win32"}, "exact", "Windows"),
        ({"torch.__version__": "2.6.1+cu126"}, "exact", "2.6.1"),
        ({"importlib.util.find_spec": lambda name: None}, "exact", "Triton"),
        ({"shutil.which": lambda name: None}, "exact", "compiler"),
        ({"torch.cuda.get_device_capability": lambda device: (8, 6)}, "fast", "8.6"),
        ({"torch.cuda.get_device_capability": lambda device: (8, 6)}, "exact", None),
        ({}, "fast", None),
    ],
)
def test_what_a_machine_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], mode: Any, word: str | None
) -> None:
    world = {
        "sys.platform": "linux",
        "torch.__version__": "2.9.0",
        "importlib.util.find_spec": lambda name: name,
        "shutil.which": lambda name: name,
        "torch.cuda.get_device_capability": lambda device: (9, 0),
        "torch.cuda.get_device_name": lambda device: "a card",
    }
    for name, value in {**world, **changes}.items():
        monkeypatch.setattr(f"ryla_nodes.engines.speed.machine.{name}", value)
    reason = machine.refusal(mode, torch.device("cuda"))
    assert (reason is None) if word is None else (reason is not None and word in reason)
