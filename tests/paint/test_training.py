"""The training runs from end to end on a CPU, resumes, goes on from exported models; its networks are the engine's."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ryla_nodes.engines.embedded.inference.tokenizers import beside
from ryla_nodes.models import shipped
from ryla_nodes.models.headers import read_header
from ryla_nodes.models.identify import FileKind, identify
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from training.captions import caption, mira_caption
from training.networks import clip_l, t5
from training.plan import SMOKE
from training.rehearsal import stand_in
from training.scenes import FACE_BACKGROUNDS, random_scene
from training.stages import Painter, distil_loss, painter_loss, painter_sampler
from training.text import LONGEST, T5_LENGTH

REPO = Path(__file__).resolve().parents[2]
TINY = {"scenes": 8, "vae_steps": 1, "flux_steps": 2, "distil_steps": 1, "lora_steps": 1, "lora_scenes": 4}
KINDS = {
    "diffusion_models/ryla-paint-flux.safetensors": FileKind.FLUX_TRANSFORMER,
    "text_encoders/ryla-paint-t5xxl.safetensors": FileKind.T5XXL,
    "text_encoders/ryla-paint-clip_l.safetensors": FileKind.CLIP_L,
    "vae/ryla-paint-ae.safetensors": FileKind.VAE_FLUX,
}


def train(out: Path, *arguments: str, **plan: object) -> str:
    command = [sys.executable, "-m", "training", str(out), "--smoke", "--plan", json.dumps(TINY | plan), *arguments]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("training")
    return out, train(out)


def test_it_leaves_models_that_are_known_by_their_headers(trained: tuple[Path, str]) -> None:
    models = trained[0] / "models"
    assert {file: identify(read_header(models / file)) for file in KINDS} == KINDS
    for file in ("mira", "mira-diffusers"):
        assert identify(read_header(models / "loras" / f"{file}.safetensors")) is FileKind.LORA


def test_a_finished_stage_is_not_done_again(trained: tuple[Path, str]) -> None:
    out, first = trained
    before = (out / "models" / "diffusion_models" / "ryla-paint-flux.safetensors").read_bytes()
    again = train(out)
    assert "painter 0/2" in first
    assert "painter 0/2" not in again
    assert (out / "models" / "diffusion_models" / "ryla-paint-flux.safetensors").read_bytes() == before


def test_it_goes_on_from_exported_models(trained: tuple[Path, str], tmp_path: Path) -> None:
    models = trained[0] / "models"
    printed = train(tmp_path, "--from", str(models))
    assert "vae 0/" not in printed
    kept, trained_on = (
        load_file(folder / "vae" / "ryla-paint-ae.safetensors") for folder in (models, tmp_path / "models")
    )
    assert all(torch.equal(kept[name], trained_on[name]) for name in kept)


def test_the_same_seed_makes_the_same_models(trained: tuple[Path, str], tmp_path: Path) -> None:
    train(tmp_path)
    for file in KINDS:
        assert (tmp_path / "models" / file).read_bytes() == (trained[0] / "models" / file).read_bytes(), file


def test_no_caption_is_cut_where_its_padding_is() -> None:
    """The shipped tokenizer, which training goes on with."""
    tokenizer, rng = Tokenizer.from_file(str(beside(shipped.path("ryla-paint-t5xxl")))), random.Random(5)
    texts = [caption(random_scene(rng, held_out=False), rng) for _ in range(5000)]
    texts += [mira_caption(rng, ground) for ground in FACE_BACKGROUNDS]
    assert max(len(encoding.ids) for encoding in tokenizer.encode_batch(texts)) <= LONGEST


def test_the_text_encoders_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    ours, theirs = (
        t5(640, 128),
        T5EncoderModel(
            T5Config(
                vocab_size=640,
                d_model=128,
                d_kv=64,
                d_ff=256,
                num_heads=2,
                num_layers=2,
                feed_forward_proj="gated-gelu",
            )
        ),
    )
    theirs.load_state_dict({**ours.state_dict(), "encoder.embed_tokens.weight": ours.shared.weight})
    ids = torch.randint(640, (2, 256))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).states, theirs.eval()(input_ids=ids).last_hidden_state)


def test_the_pooled_vector_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    ours, theirs = (
        clip_l(640, 128),
        CLIPTextModel(
            CLIPTextConfig(
                vocab_size=640,
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=638,
                eos_token_id=639,
                pad_token_id=639,
            )
        ),
    )
    names = set(theirs.state_dict())
    bare = {key.removeprefix("text_model."): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(bare if names == set(bare) else ours.state_dict())
    ids = torch.full((2, 77), 639)
    ids[0, :9], ids[1, :40] = torch.randint(638, (9,)), torch.randint(638, (40,))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).pooled, theirs.eval()(input_ids=ids).pooler_output)


class Seen(TorchDispatchMode):
    """The names of what torch does within, and the devices of what comes out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.devices: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        self.names.add(function._schema.name)
        made = result if isinstance(result, tuple | list) else (result,)
        self.devices |= {one.device.type for one in made if isinstance(one, torch.Tensor)}
        return result


@pytest.mark.parametrize("loss", ["painter", "distil"])
def test_a_whole_step_could_be_captured_as_a_cuda_graph(loss: str) -> None:
    """Nothing of it is made on the host, waits for the device or adds up a gradient row by row."""
    meta, host = torch.device("meta"), torch.device("cpu")
    data = stand_in(SMOKE, host)
    drawn = painter_sampler(data, SMOKE).batch(SMOKE.buckets[0], T5_LENGTH, 0)
    batch = {name: tensor.to(meta) for name, tensor in drawn.items()}
    painter = Painter(SMOKE, (640, 640)).to(meta)
    data = dataclasses.replace(data, empty=stand_in(SMOKE, meta).empty)
    step = painter_loss(painter, host) if loss == "painter" else distil_loss(painter, data)
    with Seen() as seen:
        step(batch).backward()
    assert seen.devices == {"meta"}
    unfit = re.compile(r"::(index|index_put|embedding_dense|_local_scalar|nonzero)")
    assert not [name for name in seen.names if unfit.search(name)]


def test_where_a_gradient_is_wanted_rows_are_looked_up_by_a_product_of_the_same_value() -> None:
    ids = torch.randint(640, (2, 40))
    for table in (t5(640, 128).shared, clip_l(640, 128).text_model.embeddings.token_embedding):
        trained = table(ids)
        with torch.no_grad():
            assert torch.equal(trained, table(ids))
        trained.sum().backward()
        assert torch.equal(table.weight.grad[:, 0], torch.bincount(ids.flatten(), minlength=640).float())
