"""LoRAs on the embedded engine: by id, in each format, at several strengths, and everything that must be refused."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import lora_files
import numpy as np
import pytest
import tiny_flux
import torch
from PIL import Image
from ryla_nodes import settings
from ryla_nodes.cli import app
from ryla_nodes.engines.embedded.inference import demo_lora as demo
from ryla_nodes.engines.embedded.server.server import EngineServer
from ryla_nodes.engines.protocol import current_engine, running_in
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import library, weights
from ryla_nodes.models.flux_files import FluxFiles
from ryla_nodes.models.headers import read_header
from ryla_nodes.nodes import node_classes
from ryla_nodes.nodes.lora import LoraLoader
from ryla_nodes.workflows.manifest import load
from ryla_nodes.workflows.workflow import bind
from safetensors.torch import save_file
from typer.testing import CliRunner


@dataclass
class Loras:
    """An engine on small models of made-up weights, and a volume whose LoRAs it uses."""

    engine: EngineServer
    folder: Path
    files: FluxFiles

    def demo(self, name: str, style: str = "kohya", trigger: str = "ohwx", seed: int = 0) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.safetensors"
        demo.write(path, read_header(self.files.transformer), style, trigger, seed)
        return path

    def submit(self, http: httpx.Client, workflow: str = "flux-lora", **values: object) -> httpx.Response:
        """POST one job, at the smallest size; a PNG, so that pictures can be compared exactly."""
        values = {"prompt": "a portrait", "seed": 7, "steps": 1, "width": 256, "height": 256, **values}
        graph = bind(load(workflow, settings.load({})), values).graph
        loader = next(node for node in graph.values() if node["class_type"] == "RYLA_FluxLoader")
        loader["inputs"]["model"] = self.files.transformer.name
        next(node for node in graph.values() if node["class_type"] == "RYLA_SaveImage")["inputs"]["format"] = "png"
        return http.post("/prompt", json={"prompt": graph})

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.engine.url, trust_env=False, timeout=30)

    def refusal(self, **values: object) -> str:
        """What the engine says to a job that it does not take."""
        with self.client() as http:
            answer = self.submit(http, **values)
        assert answer.status_code == 400
        return answer.text

    def run(self, workflow: str = "flux-lora", **values: object) -> dict[str, Any]:
        """The history entry of one job."""
        with self.client() as http:
            prompt_id = self.submit(http, workflow, **values).raise_for_status().json()["prompt_id"]
            while prompt_id not in (history := http.get(f"/history/{prompt_id}").json()):
                time.sleep(0.02)
        return dict(history[prompt_id])

    def picture(self, workflow: str = "flux-lora", **values: object) -> np.ndarray:
        entry = self.run(workflow, **values)
        assert entry["status"]["status_str"] == "success", entry["status"]
        made = next(out["images"][0] for out in entry["outputs"].values() if "images" in out)
        query = {"filename": made["filename"], "subfolder": made["subfolder"], "type": made["type"]}
        with self.client() as http:
            data = http.get("/view", params=query).raise_for_status().content
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)

    def failure(self, **values: object) -> str:
        entry = self.run(**values)
        assert entry["status"]["status_str"] == "error"
        return str(
            next(data["exception_message"] for name, data in entry["status"]["messages"] if name == "execution_error")
        )


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loras]:
    home, volume = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("volume")
    environment = replace(settings.load({}), home=home, volume=volume, comfyui=home / "none")
    with EngineServer(home, node_classes(), settings=environment) as engine:
        yield Loras(engine, volume / "loras", tiny_flux.ensure(home / "models"))


@pytest.fixture(scope="module")
def loaded(loras: Loras) -> tuple[Any, Any]:
    model, clip, _ = loras.engine.engine.load_flux(loras.files, "default")
    return model, clip


@pytest.fixture
def models(loras: Loras, loaded: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """MODEL and CLIP, for nodes called by the test itself."""
    with running_in(loras.engine.engine):
        yield loaded


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = float(np.mean((first - second) ** 2))
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


class TestPicture:
    def test_strengths(self, loras: Loras) -> None:
        loras.demo("7")
        none = loras.picture("flux-dev")
        pictures = {
            strength: loras.picture(lora_id="7", lora_strength=strength, trigger_word="a") for strength in (0, 1, -1)
        }
        assert np.array_equal(pictures[0], none), "strength 0 has to be no LoRA"
        for first, second in ((1, 0), (-1, 0), (1, -1)):
            assert psnr(pictures[first], pictures[second]) < 30, (first, second)

    def test_the_formats_give_the_same_picture(self, loras: Loras) -> None:
        pictures = []
        for style in demo.FORMATS:
            loras.demo(f"as-{style}", style)
            pictures.append(loras.picture(lora_id=f"as-{style}"))
        for style, picture in zip(demo.FORMATS[1:], pictures[1:], strict=True):
            assert psnr(picture, pictures[0]) > 50, style

    def test_a_file_added_or_replaced_while_the_engine_runs_is_used(self, loras: Loras) -> None:
        assert "No LoRA 'late'" in loras.refusal(lora_id="late")
        loras.demo("late", seed=1)
        first = loras.picture(lora_id="late")
        loras.demo("late", seed=2)
        assert psnr(loras.picture(lora_id="late"), first) < 30

    def test_the_trigger_word_is_in_the_prompt_that_ran(self, loras: Loras) -> None:
        loras.demo("triggered", trigger="zxc woman")
        plain = loras.picture(lora_id="triggered", trigger_word="other")
        own = loras.picture(lora_id="triggered")
        spelled = loras.picture(lora_id="triggered", prompt="zxc woman, a portrait")
        assert np.array_equal(own, spelled), "the LoRA's own trigger word stands in front, once"
        assert not np.array_equal(own, plain)


class TestHistory:
    """The prompt that was run and the LoRA's report, as the engine's /history and ``ryla run --json`` tell them."""

    PROMPT = "zxc woman, a portrait in a garden"

    def test_a_job_and_its_repetition(self, loras: Loras) -> None:
        path = loras.demo("told", trigger="zxc woman")
        values = {"lora_id": "told", "prompt": "a portrait in a garden", "seed": 11}
        first, again = loras.run(**values), loras.run(**values)
        cached = [dict(entry["status"]["messages"])["execution_cached"]["nodes"] for entry in (first, again)]
        assert not set(cached[0]) & {"2", "3"} and set(again["outputs"]) <= set(cached[1])
        for entry in (first, again):
            report, prompt = (entry["outputs"][node]["text"][0] for node in ("2", "3"))
            assert prompt == self.PROMPT
            assert f"$RYLA_VOLUME/loras/{path.name}" in report and "matched 24 weights of the model" in report

    def test_ryla_run(self, loras: Loras, tmp_path: Path) -> None:
        loras.demo("told", trigger="zxc woman")
        picture = tmp_path / "x.jpg"
        size = ["--width", "256", "--height", "256", "--steps", "1", "--seed", "12"]
        words = ["run", "flux-lora", "--prompt", "a portrait in a garden", "--lora-id", "told", *size]
        line = [*words, "--server", loras.engine.url, "-o", str(picture), "--json"]
        for number in range(2):
            done = CliRunner().invoke(app.app, line)
            assert done.exit_code == 0, done.output
            told = json.loads(done.stdout)
            assert told["cached"] is (number == 1)
            assert [self.PROMPT] in [report.get("text") for report in told["outputs"].values()]
            assert picture.read_bytes().startswith(b"\xff\xd8\xff")
            picture.unlink()


class TestNode:
    def test_counts_report_and_trigger(self, loras: Loras, models: tuple[Any, Any]) -> None:
        for style in demo.FORMATS:
            path = loras.demo(f"count-{style}", style, "zxc")
            _, _, trigger, report = LoraLoader.execute(models[0], path.stem, 1.0, "error", clip=models[1]).result
            matched = sum(key.endswith((".lora_down.weight", ".lora_A.weight")) for key in read_header(path).tensors)
            assert trigger == "zxc"
            assert f"matched {matched} weights of the model, 0 of the text encoders" in report
            assert "matched nothing" not in report

    def test_text_encoders_only(self, loras: Loras, models: tuple[Any, Any]) -> None:
        layers = [(f"text_model.encoder.layers.{n}.self_attn.{to}_proj", 128, 128) for n in (0, 1) for to in "qv"]
        lora_files.write(loras.folder / "te.safetensors", lora_files.kohya(layers, "lora_te1_", std=0.5))
        report = LoraLoader.execute(models[0], "te", 1.0, "error", clip=models[1]).result[3]
        assert "matched 0 weights of the model, 4 of the text encoders" in report
        assert "the diffusion model is unchanged" in report
        assert not np.array_equal(loras.picture(lora_id="te"), loras.picture(lora_id="te", lora_strength=0))
        with pytest.raises(RylaError, match="no CLIP is connected"):
            LoraLoader.execute(models[0], "te", 1.0, "error")

    @pytest.mark.parametrize(
        "example", ["sdxl kohya", "sd15 kohya", "wan comfyui", "qwen diffusers", "z-image ai-toolkit", "flux2 comfyui"]
    )
    def test_another_family(self, loras: Loras, models: tuple[Any, Any], example: str) -> None:
        lora_files.write(loras.folder / "other.safetensors", lora_files.examples()[example].tensors)
        with pytest.raises(RylaError) as raised:
            LoraLoader.execute(models[0], "other", 1.0, "error", clip=models[1])
        assert raised.value.code == "lora_wrong_family" and "FLUX.1" in raised.value.message

    def test_another_family_in_a_job(self, loras: Loras) -> None:
        lora_files.write(loras.folder / "sdxl.safetensors", lora_files.examples()["sdxl kohya"].tensors)
        message = loras.failure(lora_id="sdxl")
        assert "LoRA for SDXL" in message and "the model is FLUX.1" in message

    def test_nothing_matches(self, loras: Loras, models: tuple[Any, Any]) -> None:
        lora_files.write(loras.folder / "none.safetensors", lora_files.examples()["names of no family"].tensors)
        with pytest.raises(RylaError) as raised:
            LoraLoader.execute(models[0], "none", 1.0, "error", clip=models[1])
        assert raised.value.code == "lora_matches_nothing"

    @pytest.mark.parametrize("kind", ["loha", "lokr", "dora", "full", "oft", "glora", "bfl-control"])
    def test_a_kind_for_comfyui_only(self, loras: Loras, models: tuple[Any, Any], kind: str) -> None:
        control = kind == "bfl-control"
        tensors = lora_files.control() if control else lora_files.lycoris(kind, lora_files.flux(256))
        lora_files.write(loras.folder / "kind.safetensors", tensors)
        with pytest.raises(RylaError) as raised:
            LoraLoader.execute(models[0], "kind", 1.0, "error", clip=models[1])
        assert raised.value.code == "lora_unsupported"
        assert kind in raised.value.message and "which ComfyUI applies" in raised.value.message
        assert "--server" in raised.value.hint

    ATTENTION = lora_files.flux_diffusers(256)

    def applied(self, loras: Loras, models: tuple[Any, Any], tensors: lora_files.Tensors, **metadata: str) -> str:
        """The node's report of a file."""
        lora_files.write(loras.folder / "told.safetensors", tensors, metadata)
        return str(LoraLoader.execute(models[0], "told", 1.0, "error", clip=models[1]).result[3])

    def refused(self, loras: Loras, models: tuple[Any, Any], tensors: lora_files.Tensors, **metadata: str) -> RylaError:
        with pytest.raises(RylaError) as raised:
            self.applied(loras, models, tensors, **metadata)
        return raised.value

    @pytest.mark.parametrize("said", ["flux2_klein_4b", "qwen_image", "chroma"])
    def test_layers_of_several_families_whose_metadata_names_another(
        self, loras: Loras, models: tuple[Any, Any], said: str
    ) -> None:
        """By name another family's; FLUX.1's own of true widths gets as far as the small model's size."""
        layers = [
            (f"transformer_blocks.{n}.attn.{to}", 3072, 3072) for n in range(5) for to in ("to_q", "to_k", "to_v")
        ]
        metadata = {**lora_files.AI_TOOLKIT, "ss_base_model_version": said}
        assert self.refused(loras, models, lora_files.peft(layers), **metadata).code == "lora_wrong_family"
        metadata["ss_base_model_version"] = "flux1"
        assert self.refused(loras, models, lora_files.peft(layers), **metadata).code == "lora_wrong_size"

    def test_a_scale_that_is_recorded_and_in_no_key_is_reported(self, loras: Loras, models: tuple[Any, Any]) -> None:
        told = json.dumps({"transformer.r": 2, "transformer.lora_alpha": 1})
        report = self.applied(loras, models, lora_files.peft(self.ATTENTION, std=0.1), lora_adapter_metadata=told)
        assert "trained at a scale of 0.5" in report and "not applied" in report

    def test_dora_in_pefts_spelling(self, loras: Loras, models: tuple[Any, Any]) -> None:
        tensors = lora_files.peft(self.ATTENTION, std=0.1)
        scales = {
            f"transformer.{name}.lora_magnitude_vector": np.ones(out, np.float32) for name, out, _ in self.ATTENTION
        }
        error = self.refused(loras, models, tensors | scales)
        assert error.code == "lora_unsupported"
        assert "dora" in error.message and "lora_magnitude_vector" in error.message

    @pytest.mark.parametrize(
        ("roles", "name", "advice"),
        [
            ((".lora_down", ".lora_up"), "nunchaku", "ComfyUI-nunchaku"),
            ((".oft_R.weight",), "oft_R", "oft_blocks"),
            ((".vera_lambda_b", ".vera_lambda_d"), "VeRA", "LoRA"),
        ],
    )
    def test_a_layout_that_nobody_reads_is_named(
        self, loras: Loras, models: tuple[Any, Any], roles: tuple[str, ...], name: str, advice: str
    ) -> None:
        tensors = {
            f"transformer_blocks.{n}.attn.to_q{role}": np.ones((256, 2), np.float16) for n in range(2) for role in roles
        }
        error = self.refused(loras, models, tensors)
        assert error.code == "lora_matches_nothing"
        assert name in error.message and advice in error.hint

    @pytest.mark.parametrize("rows", [3 * 256 + 64, 3 * 3072])
    def test_a_fused_layer_of_another_size(self, loras: Loras, models: tuple[Any, Any], rows: int) -> None:
        tensors = lora_files.kohya([("double_blocks.0.img_attn.qkv", rows, 256)], std=0.1)
        lora_files.write(loras.folder / "rows.safetensors", tensors)
        with pytest.raises(RylaError) as raised:
            LoraLoader.execute(models[0], "rows", 1.0, "error", clip=models[1])
        assert raised.value.code == "lora_wrong_size" and "img_attn_qkv" in raised.value.message

    @pytest.mark.parametrize("strength", [float("nan"), float("inf"), 2.5, -3])
    def test_a_linked_strength_out_of_range(self, loras: Loras, models: tuple[Any, Any], strength: float) -> None:
        loras.demo("7")
        with pytest.raises(RylaError, match="strength") as raised:
            LoraLoader.execute(models[0], "7", strength, "error", clip=models[1])
        assert raised.value.code == "invalid_parameter"

    def test_partial_matches_are_reported(self, loras: Loras, models: tuple[Any, Any]) -> None:
        layers = [(path, out, into) for path, out, into in lora_files.flux(256) if "mod" not in path]
        odd = [("double_blocks.99.img_attn.qkv", 768, 256)]
        tensors = lora_files.kohya(layers, std=0.1) | lora_files.kohya(odd, std=0.1)
        lora_files.write(loras.folder / "part.safetensors", tensors)
        with pytest.raises(RylaError):  # Block 99 is no FLUX.1's.
            LoraLoader.execute(models[0], "part", 1.0, "error", clip=models[1])
        odd = [("double_blocks.18.img_attn.qkv", 768, 256)]
        tensors = lora_files.kohya(layers, std=0.1) | lora_files.kohya(odd, std=0.1)
        lora_files.write(loras.folder / "part.safetensors", tensors)
        report = LoraLoader.execute(models[0], "part", 1.0, "error", clip=models[1]).result[3]
        assert f"matched {len(layers)} weights" in report
        assert "3 keys of the file matched nothing, such as lora_unet_double_blocks_18_img_attn_qkv.alpha" in report

    def test_nan_weights(self, loras: Loras, models: tuple[Any, Any]) -> None:
        tensors = lora_files.kohya(lora_files.flux(256), std=0.1)
        tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"][-1, -1] = np.nan
        lora_files.write(loras.folder / "nan.safetensors", tensors)
        with pytest.raises(RylaError) as raised:
            LoraLoader.execute(models[0], "nan", 1.0, "error", clip=models[1])
        assert raised.value.code == "lora_not_finite" and "img_attn_qkv.lora_up" in raised.value.message


class TestWeights:
    def test_a_file_is_kept_until_it_changes(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        save_file({"w": torch.ones(2)}, path)
        first, again = weights.load(path), weights.load(path)
        assert again is not first and again["w"] is first["w"]
        save_file({"w": torch.full((2, 2), 3.0)}, path)
        assert weights.load(path)["w"].tolist() == [[3.0, 3.0], [3.0, 3.0]]

    def test_nan_is_refused_when_a_file_is_added(self, tmp_path: Path) -> None:
        tensors = lora_files.kohya(lora_files.flux(256), std=0.1)
        tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"][-1, -1] = np.inf
        with pytest.raises(RylaError) as raised:
            library.add(lora_files.write(tmp_path / "x.safetensors", tensors), tmp_path / "loras")
        assert raised.value.code == "lora_not_finite"
        assert not (tmp_path / "loras").exists()

    def test_gone_since_it_was_found(self, tmp_path: Path, models: tuple[Any, Any]) -> None:
        with pytest.raises(RylaError) as raised:
            current_engine().apply_lora(models[0], models[1], tmp_path / "gone.safetensors", 1.0, 1.0)
        assert raised.value.code == "lora_vanished"

    def test_damaged_since_it_was_found(self, tmp_path: Path) -> None:
        (tmp_path / "x.safetensors").write_bytes(b"nonsense nonsense")
        with pytest.raises(RylaError) as raised:
            weights.load(tmp_path / "x.safetensors")
        assert raised.value.code == "not_safetensors"

    @pytest.mark.parametrize(
        "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    )
    @pytest.mark.parametrize("where", [0, 7, 8, 9])
    def test_one_bad_value_is_found_in_every_type_and_chunk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, where: int
    ) -> None:
        monkeypatch.setattr(weights, "_CHUNK", 4)
        tensor = torch.ones(2, 5).to(dtype)
        path = tmp_path / "x.safetensors"
        save_file({"good": tensor, "number": torch.tensor([1, 2])}, path)
        assert set(weights.load(path)) == {"good", "number"}
        bad = torch.ones(10)
        bad[where] = float("nan")
        save_file({"good": tensor, "bad": bad.to(dtype).reshape(2, 5)}, path)
        with pytest.raises(RylaError, match="infinite weights in bad"):
            weights.load(path)
