"""RYLA_FluxLoader and RYLA_SaveImage beside core's nodes in a real ComfyUI, on small weights of the true key names."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import lora_files
import pytest
import tiny_flux
import torch
from comfyui.conftest import StartComfyUI
from comfyui.process import REPO, ComfyUI
from PIL import Image
from ryla_nodes.engines.embedded.inference import demo_lora as demo
from ryla_nodes.models.flux_files import FluxFiles
from ryla_nodes.models.headers import read_header
from safetensors.torch import load_file, save_file

PACKS = tuple(Path(__file__).parent / "packs" / name for name in ("ryla_test_small_shapes", "ryla_test_probe.py"))
CATALOGUE_NAMES = ("flux1-dev", "clip_l", "t5xxl_fp16", "ae")
PREFIXES = ("model.diffusion_model.", "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer.", "vae.")


def parts(files: FluxFiles) -> tuple[Path, ...]:
    return tuple(path for path in (files.transformer, files.clip_l, files.t5xxl, files.vae) if path is not None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return parts(tiny_flux.ensure(tmp_path_factory.mktemp("small")))


def copy_weights(source: Path, target: Path) -> None:
    """Copy a weight file with its tokenizer."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    tokenizer = source.with_name(f"{source.stem}.tokenizer.json")
    if tokenizer.is_file():
        shutil.copy(tokenizer, target.with_name(f"{target.stem}.tokenizer.json"))


@pytest.fixture(scope="module")
def models(small: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small files under the catalogue's names, and all of them in one checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    whole: dict[str, torch.Tensor] = {}
    checkpoint = folder / "checkpoints" / "all-in-one.safetensors"
    checkpoint.parent.mkdir()
    for source, name, prefix in zip(small, CATALOGUE_NAMES, PREFIXES, strict=True):
        copy_weights(source, folder / source.parent.name / f"{name}.safetensors")
        whole |= {prefix + key: tensor.clone() for key, tensor in load_file(source).items()}
    for source, part in zip(small[1:3], ("clip_l", "t5xxl"), strict=True):
        tokenizer = source.with_name(f"{source.stem}.tokenizer.json")
        shutil.copy(tokenizer, checkpoint.with_name(f"all-in-one.{part}.tokenizer.json"))
    save_file(whole, checkpoint)
    return folder


@pytest.fixture
def server(start_comfyui: StartComfyUI, models: Path) -> ComfyUI:
    return start_comfyui(packs=PACKS, models=(models,))


OURS = {"model": ("loader", 0), "clip": ("loader", 1), "vae": ("loader", 2)}
CORE = {"model": ("unet", 0), "clip": ("clip", 0), "vae": ("vae", 0)}


def loader(**inputs: Any) -> dict[str, Any]:
    defaults = {"model": "auto", "weight_dtype": "default", "text_encoder": "auto"}
    return {"loader": ("RYLA_FluxLoader", {**defaults, **inputs})}


def core_loaders(weight_dtype: str = "default") -> dict[str, Any]:
    return {
        "unet": ("UNETLoader", {"unet_name": "flux1-dev.safetensors", "weight_dtype": weight_dtype}),
        "clip": ("DualCLIPLoader", {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors",
                                    "type": "flux"}),
        "vae": ("VAELoader", {"vae_name": "ae.safetensors"}),
    }  # fmt: skip


def graph(loaders: dict[str, Any], sources: dict[str, tuple[str, int]], **save: Any) -> dict[str, Any]:
    model, clip, vae = (list(sources[name]) for name in ("model", "clip", "vae"))
    output = ("RYLA_SaveImage", {"images": ["decode", 0], "filename_prefix": "t", "format": "png", "quality": 92,
                                 "metadata": True, **save})  # fmt: skip
    nodes = {
        **loaders,
        "text": ("CLIPTextEncode", {"text": "a lighthouse at dusk", "clip": clip}),
        "guidance": ("FluxGuidance", {"conditioning": ["text", 0], "guidance": 3.5}),
        "size": ("EmptySD3LatentImage", {"width": 128, "height": 96, "batch_size": 1}),
        "sampler": ("KSampler", {"model": model, "positive": ["guidance", 0], "negative": ["text", 0],
                                 "latent_image": ["size", 0], "seed": 7, "steps": 3, "cfg": 1.0,
                                 "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": vae}),
        "ours": output,
        "core": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "c"}),
        "digest": ("RYLATest_Digest", {"image": ["decode", 0]}),
    }  # fmt: skip
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}


@pytest.mark.parametrize("weight_dtype", ["default", "fp8_e4m3fn", "fp8_e5m2"])
def test_split_files_give_core_loaders_picture_bit_for_bit(server: ComfyUI, weight_dtype: str) -> None:
    own = server.succeed(graph(loader(weight_dtype=weight_dtype), OURS))
    reference = server.succeed(graph(core_loaders(weight_dtype), CORE))
    assert own["digest"] == reference["digest"]
    assert own["digest"]["std"][0] > 0.02
    pixels = [
        Image.open(server.files(outputs, node)[0]).tobytes()
        for outputs in (own, reference)
        for node in ("ours", "core")
    ]
    assert len(set(pixels)) == 1


def test_an_all_in_one_gives_core_loaders_picture_bit_for_bit(server: ComfyUI) -> None:
    own = server.succeed(graph(loader(model="all-in-one.safetensors"), OURS))
    name = {"ckpt_name": "all-in-one.safetensors"}
    reference = server.succeed(graph({"loader": ("CheckpointLoaderSimple", name)}, OURS))
    assert own["digest"] == reference["digest"]
    assert own["digest"]["std"][0] > 0.02


def test_a_replaced_file_is_loaded_again(start_comfyui: StartComfyUI, small: tuple[Path, ...], tmp_path: Path) -> None:
    server = start_comfyui(packs=PACKS, models=(tmp_path,))
    for source in small:
        copy_weights(source, tmp_path / source.parent.name / source.name)
    named = loader(model=small[0].name)  # Made-up weights are found by name only.
    before = server.succeed(graph(named, OURS))["digest"]
    assert server.succeed(graph(named, OURS))["digest"] == before
    vae = tmp_path / "vae" / small[3].name
    replaced = {key: tensor * 1.5 for key, tensor in load_file(vae).items()}
    metadata = dict(read_header(vae).metadata)
    vae.unlink()
    save_file(replaced, vae, metadata)
    assert server.succeed(graph(named, OURS))["digest"] != before


def test_a_lora_with_a_text_encoder_part_patches_both_as_core_does(server: ComfyUI, models: Path) -> None:
    width = load_file(models / "text_encoders" / "clip_l.safetensors")["text_model.final_layer_norm.weight"].shape[0]
    layers = [(f"text_model.encoder.layers.0.self_attn.{name}_proj", width, width) for name in ("q", "v")]
    transformer = read_header(models / "diffusion_models" / "flux1-dev.safetensors")
    path = models / "loras" / "both.safetensors"
    path.parent.mkdir()
    demo.write(path, transformer, "kohya", "ohwx")
    encoders = lora_files.kohya(layers, "lora_te1_", std=0.3)
    save_file(load_file(path) | {name: torch.from_numpy(value) for name, value in encoders.items()}, path)

    strengths = {"strength_model": 0.7, "strength_clip": 0.7}
    core_inputs = {"model": ["loader", 0], "clip": ["loader", 1], "lora_name": "both.safetensors", **strengths}
    our_inputs = {
        "model": ["loader", 0],
        "clip": ["loader", 1],
        "lora_id": "both",
        "strength": 0.7,
        "on_missing": "error",
    }
    seen = {}
    for name, node in (("core", ("LoraLoader", core_inputs)), ("ours", ("RYLA_LoraLoader", our_inputs))):
        sources = {"model": ("lora", 0), "clip": ("lora", 1), "vae": ("loader", 2)}
        api = graph({**loader(), "lora": node}, sources)
        report = {"report": ["lora", 3]} if name == "ours" else {}
        api["patches"] = {
            "class_type": "RYLATest_Patches",
            "inputs": {"model": ["lora", 0], "clip": ["lora", 1], **report},
        }
        seen[name] = server.succeed(api)
    assert seen["ours"]["digest"] == seen["core"]["digest"]
    assert seen["ours"]["digest"] != server.succeed(graph(loader(), OURS))["digest"]
    in_model, in_clip = (seen["core"]["patches"][part][0] for part in ("model", "clip"))
    assert in_clip == len(layers)
    report = seen["ours"]["patches"]["report"][0]
    assert f"matched {in_model} weights of the model, {in_clip} of the text encoders" in report


def refusal(server: ComfyUI, **inputs: Any) -> str:
    answer = server.submit(graph(loader(**inputs), OURS))
    assert answer.status_code == 400
    [error] = answer.json()["node_errors"]["loader"]["errors"]
    assert error["type"] == "exception_during_inner_validation"
    return str(error["details"])


def test_what_is_missing_is_said_before_the_job_is_queued(
    start_comfyui: StartComfyUI, small: tuple[Path, ...], tmp_path: Path
) -> None:
    server = start_comfyui(packs=PACKS, models=(tmp_path,))
    line = refusal(server)
    assert "flux1-dev.safetensors" in line
    assert str(tmp_path / "diffusion_models") in line
    assert str(server.base / "models" / "checkpoints") in line
    assert f"Next: {server.install.python} {REPO / 'scripts' / 'install_models.py'} install --volume " in line
    assert line.endswith(" flux-dev [missing_model]")
    for part in ("clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors"):
        assert part in line

    copy_weights(small[0], tmp_path / "diffusion_models" / "flux1-dev.safetensors")
    line = refusal(server)
    for part in ("clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors", str(tmp_path / "vae")):
        assert part in line
    assert "diffusion_models" not in line

    path = tmp_path / "diffusion_models" / "flux1-dev.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"{path} is truncated" in refusal(server)
    shutil.copy(small[3], path)
    assert "16-channel VAE" in refusal(server)
    assert "nothing.safetensors is not there" in refusal(server, model="nothing.safetensors")


def test_saved_pictures_are_served_as_what_they_are(server: ComfyUI, models: Path) -> None:
    for format_name, kind in (("jpeg", "image/jpeg"), ("webp", "image/webp"), ("png", "image/png")):
        api = graph(loader(), OURS, format=format_name, filename_prefix="sub/%width%")
        api["size"]["inputs"]["batch_size"] = 2
        workflow = {"nodes": [], "version": 0.4}
        outputs = server.succeed(api, extra_data={"extra_pnginfo": {"workflow": workflow}})
        assert [image["subfolder"] for image in outputs["ours"]["images"]] == ["sub", "sub"]
        for image in outputs["ours"]["images"]:
            answer = server.http.get("/view", params=image)
            assert answer.headers["content-type"] == kind
            with Image.open(io.BytesIO(answer.content)) as picture:
                assert (picture.format, picture.size) == (format_name.upper(), (128, 96))
                stored = stored_texts(picture)
            # ComfyUI adds the loader's fingerprint to the prompt; it must not tell where the files are.
            assert str(server.base) not in json.dumps(stored)
            assert str(models) not in json.dumps(stored)
            assert len(stored["prompt"]["loader"].pop("is_changed")[0]) == 16
            assert stored == {"prompt": api, "workflow": workflow}


def test_a_prefix_cannot_leave_the_output_folder(server: ComfyUI) -> None:
    error = server.fail(graph(loader(), OURS, filename_prefix="../../escape"))
    assert "outside the output folder" in error["exception_message"]
    assert not list(server.base.parent.glob("**/escape*"))


def test_disable_metadata_is_obeyed(start_comfyui: StartComfyUI, models: Path) -> None:
    server = start_comfyui(packs=PACKS, models=(models,), arguments=("--disable-metadata",))
    outputs = server.succeed(graph(loader(), OURS))
    with Image.open(server.files(outputs, "ours")[0]) as picture:
        assert stored_texts(picture) == {}


def stored_texts(picture: Image.Image) -> dict[str, Any]:
    if picture.format == "PNG":
        return {name: json.loads(value) for name, value in picture.text.items()}  # type: ignore[attr-defined]
    found = (value.partition(":") for value in picture.getexif().values() if isinstance(value, str))
    return {name: json.loads(value) for name, _, value in found}
