"""The small SDXL and InstantID in training: what is drawn, said and computed is what the engine reads and computes."""

from __future__ import annotations

import copy
import itertools
import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the extra `identity` is not installed")
pytest.importorskip("insightface", reason="the extra `identity` is not installed")

import onnxruntime
from ryla_nodes.engines.embedded.inference import instantid, sdxl, weights
from ryla_nodes.engines.embedded.inference import vae as vae_module
from ryla_nodes.engines.protocol import InstantIDSettings
from ryla_nodes.identity.adapter import Adapter
from ryla_nodes.identity.face_file import FaceIdentity
from ryla_nodes.identity.geometry import draw_keypoints
from ryla_nodes.models import shipped
from ryla_nodes.models.folders import ModelFolders
from ryla_nodes.models.identity_files import find_pack
from tokenizers import Tokenizer

from training import face_networks, faces
from training.face_export import export_detector, export_recogniser
from training.face_stages import PAINTED, aligned_views, crop, frames
from training.people import keypoints, people, views
from training.portraits import portraits
from training.render import render
from training.scenes import HAIR_COLOURS, HAIR_STYLES, SKINS, named_looks, random_face
from training.sdxl import captions, rehearsal, restore, stages
from training.sdxl.__main__ import Run
from training.sdxl.bank import ALONE, APART, Bank, Scenes, becoming, fitted, scene_views, strangers
from training.sdxl.export import export_models, files
from training.sdxl.hints import draw_hints
from training.sdxl.networks import Painter, autoencoder, fold_latent_format
from training.sdxl.plan import SMOKE, Bucket, Plan
from training.sdxl.sampler import WINDOWS, Sampler, around, window
from training.sdxl.stages import Likeness, Loss, cut_out, predict
from training.text import CLIP_LENGTH, clip_tokenizer, token_ids

POINTS = np.array([[50.6, 50], [78, 52.2], [64, 66], [54, 80.9], [75, 82]], np.float32)
TEXT = "a portrait of a person, smiling, no hat, navy background"
CPU = torch.device("cpu")
SMALL = replace(SMOKE, batch=1, buckets=(Bucket(64, 4, 4, 4, 1.0, 1.0),))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return clip_tokenizer(1, itertools.islice(captions.corpus(1), 0, None, 50))


@pytest.fixture(scope="module")
def painter(tokenizer: Tokenizer) -> Painter:
    torch.manual_seed(0)
    made = Painter(tokenizer.get_vocab_size()).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.03)
    return made


def conditions(tokenizer: Tokenizer, faces: torch.Tensor, pictures: int = 1) -> dict[str, torch.Tensor]:
    ids = token_ids(tokenizer, [TEXT] * pictures, CLIP_LENGTH)
    return {
        "clip_l": ids,
        "clip_g": captions.padded_for_g(tokenizer, ids),
        "faces": faces,
        "points": torch.from_numpy(POINTS).expand(len(faces), 5, 2),
        "strength": torch.full((len(faces), 3), 0.8),
        "control": torch.full((len(faces),), 0.7),
    }


def test_the_hint_is_the_engines_to_the_pixel() -> None:
    drawn = (draw_hints(torch.from_numpy(POINTS)[None], 128)[0].permute(1, 2, 0).numpy() * 255).round()
    assert np.array_equal(drawn.astype(np.uint8), draw_keypoints(POINTS, 128, 128))


def test_the_engine_computes_from_the_files_what_training_computed(
    tmp_path: Path, tokenizer: Tokenizer, painter: Painter
) -> None:
    export_models(painter, autoencoder((64, 64)), tokenizer, tmp_path, small=False)
    made, placement = files(tmp_path), weights.cpu()
    model, clip, _ = sdxl.load_checkpoint(made.checkpoint, ModelFolders({}), placement)
    vectors = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    hint = torch.from_numpy(draw_keypoints(POINTS, 128, 128).astype(np.float32) / 255)[None]
    text = clip.encode(clip.tokenize(TEXT))
    control_net = sdxl.load_control_net(made.control_net, placement)
    settings = InstantIDSettings(keypoints=hint, ip_weight=0.8, cn_strength=0.7, noise=0.35)
    patched, positive, _ = instantid.apply(
        model, text, text, control_net, Adapter(made.adapter), FaceIdentity(vectors), settings
    )
    x, sigma = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)), model.sampling.sigmas[400]
    engine = (x - patched.denoise(x, sigma, positive, False)) / sigma
    with torch.no_grad():
        batch = conditions(tokenizer, torch.from_numpy(vectors))
        trained = predict(painter, x / (sigma**2 + 1).sqrt(), torch.tensor([400]), batch)
        other = predict(painter, x / (sigma**2 + 1).sqrt(), torch.tensor([400]), batch | {"faces": batch["faces"] * -1})
    assert (trained - engine).norm() / trained.norm() < 4e-3, "half precision of the files is all that differs"
    assert (trained - other).norm() / trained.norm() > 0.02, "the face has no say"


def test_of_two_people_each_acts_in_its_half(tokenizer: Tokenizer, painter: Painter) -> None:
    """One layer's sum: a second person changes no column of the left half."""
    crossing = painter._crossings[0]
    attn = next(m for m in painter.unet.modules() if getattr(m, "processor", None) is crossing)
    from training.sdxl.networks import Crowd

    tokens = painter.adapter(torch.randn(2, 512, generator=torch.Generator().manual_seed(2)))
    other = torch.cat([tokens[:1], tokens[1:] * -1])
    states, text = torch.randn(1, 64, attn.to_q.in_features), torch.randn(1, 77, 128)
    with torch.no_grad():
        one, two = (
            crossing(attn, states, text, identity=Crowd(each, torch.ones(2, 3), 1, (16, 16))).unflatten(1, (8, 8))
            for each in (tokens, other)
        )
    assert torch.equal(one[:, :, :4], two[:, :, :4]) and (one[:, :, 4:] - two[:, :, 4:]).abs().min() > 0


def test_a_layer_sees_the_person_only_as_its_part_of_the_network_does(painter: Painter) -> None:
    """The wide layers, ten of seventy, would carry the likeness alone."""
    sampler = rehearsal.stand_in(replace(SMOKE, batch=64), CPU)
    seen = sampler.batch(SMOKE.buckets[0], 0)["strength"]
    kinds = {tuple(row) for row in (seen > 0).int().tolist()}
    assert kinds == {(1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0)}
    parts = [crossing.part.tolist() for crossing in painter._crossings]
    assert [parts.count([float(part == at) for part in range(3)]) for at in range(3)] == [10, 50, 10]


def test_blocks_of_a_width_share_one_compiled_graph(painter: Painter) -> None:
    """Seventy layers that each compile for themselves would take the compiler an hour."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    trained = copy.deepcopy(painter)
    batch = rehearsal.stand_in(SMALL, CPU).batch(SMALL.buckets[0], 0)
    loss = Loss(trained, CPU)
    plain = float(loss(batch).detach())
    for block in trained.blocks():
        block.compile(backend=backend, dynamic=False)
    compiled = loss(batch)
    compiled.backward()
    assert len(graphs) == 4, "two widths, each in the UNet with a face and in the ControlNet without"
    assert float(compiled.detach()) == pytest.approx(plain, rel=1e-4)
    idle = [name for name, weight in trained.named_parameters() if weight.grad is None]
    assert all(
        name.startswith(("text.clip_l.text_model.encoder.layers.2", "text.clip_l.text_model.final")) for name in idle
    )


def test_the_face_that_is_looked_at_is_the_one_in_the_picture(tokenizer: Tokenizer, painter: Painter) -> None:
    """What is cut out of a whole picture is what is drawn there; the likeness teaches the painter and nobody else."""
    who, view = people(torch.arange(3)), views(3, torch.Generator().manual_seed(4), scale=(0.25, 0.35))
    frame = frames(keypoints(who, view))
    drawn = portraits(who, view, face_networks.ALIGNED, frame)
    assert (crop(portraits(who, view, 512), frame) - drawn).abs().mean() < 0.01

    trained, vae = copy.deepcopy(painter), autoencoder((64, 64, 64, 64)).requires_grad_(False)
    likeness = Likeness(vae, face_networks.Recogniser().eval().requires_grad_(False))
    readable = Bucket(256, 4, 4, 4, 1.0, 1.0)
    batch = rehearsal.stand_in(replace(SMALL, buckets=(readable,)), CPU).batch(readable, 0)
    batch |= {"own": torch.randn(batch["own"].shape), "known": torch.ones_like(batch["known"])}
    apart = Loss(trained, CPU, likeness)(batch) - Loss(trained, CPU)(batch)
    assert float(apart.detach()) > 0
    apart.backward()
    small = rehearsal.stand_in(SMALL, CPU).batch(SMALL.buckets[0], 0)
    assert torch.equal(Loss(trained, CPU, likeness)(small), Loss(trained, CPU)(small)), (
        "nobody can read so small a face"
    )
    taught = [name for name, weight in trained.adapter.named_parameters() if weight.grad is not None]
    assert len(taught) == len(list(trained.adapter.parameters())) and trained.unet.conv_out.weight.grad.abs().max() > 0


def test_a_training_goes_on_from_exported_files(tmp_path: Path, tokenizer: Tokenizer, painter: Painter) -> None:
    torch.manual_seed(5)
    vae, trained = autoencoder((64, 64)), face_networks.Recogniser()
    trained(torch.randn(8, 3, 112, 112))  # So that its normalisations have something to say.
    export_models(painter, vae, tokenizer, tmp_path / "models", small=False)
    packs = tmp_path / "faces" / "insightface" / "models"
    export_recogniser(trained, packs / "antelopev2" / "glintr100.onnx")
    export_recogniser(trained, packs / "buffalo_l" / "w600k_r50.onnx")
    export_detector(face_networks.Detector(), packs / "antelopev2" / "scrfd_10g_bnkps.onnx")

    source, again, back = restore.given(tmp_path), Painter(tokenizer.get_vocab_size()).eval(), autoencoder((64, 64))
    restore.prepare(source, tmp_path / "on")
    restore.restore(again, back, source)
    batch = conditions(tokenizer, torch.randn(1, 512))
    x, step = torch.randn(1, 4, 16, 16), torch.tensor([400])
    with torch.no_grad():
        before, after = (predict(network, x, step, batch) for network in (painter, again))
        assert (before - after).norm() / before.norm() < 4e-3, "half precision of the files is all that differs"
        assert (vae.encode(x[:, :3])[0] - back.encode(x[:, :3])[0]).abs().max() < 1e-2
    known = face_networks.Recogniser().eval()
    known.load_state_dict(torch.load(tmp_path / "on" / "faces" / "recogniser.pt", weights_only=True))
    face = torch.randn(2, 3, 112, 112)
    assert torch.allclose(known(face), trained.eval()(face), atol=1e-3)


def test_every_way_to_say_it_is_one_row_and_fits(tokenizer: Tokenizer) -> None:
    texts = captions.Texts.of(tokenizer, 1, CPU)
    _, said = scene_views(200, torch.Generator().manual_seed(1))
    assert int(said.rows().max()) < int(captions.pair_row(torch.tensor(0))) < texts.negative == len(texts.clip_l) - 1
    assert int((texts.clip_l == tokenizer.get_vocab_size() - 1).sum(dim=2).min()) >= 1, "a text without its end"
    assert bool((texts.clip_g == texts.clip_l).all(dim=2).any()) is False, "CLIP-G is padded with zeros"


def test_what_is_said_is_what_is_drawn() -> None:
    view, said = scene_views(400, torch.Generator().manual_seed(3))
    hats = said.hat < len(captions.HEADWEAR) - 2
    assert not view.hat[hats].isnan().any() and view.hat[said.hat == len(captions.HEADWEAR) - 2].isnan().all()
    assert view.glasses[said.glasses == 0].all() and not view.glasses[said.glasses == 1].any()
    assert (view.smile[said.expression == captions.EXPRESSIONS.index("smiling")] > 0.3).all()


def test_some_texts_tell_what_a_prompt_for_flux_tells(tokenizer: Tokenizer) -> None:
    """Skin, hair and beard are the person's, glasses and hat the picture's; nothing is told of held-out scenes."""
    chance = torch.Generator().manual_seed(3)
    view, said = scene_views(400, chance)
    who = strangers(400, chance)
    rows, plain = said.rows_of(who, chance), said.rows()
    texts = list(itertools.islice(captions.corpus(1), 0, None, captions.PARAPHRASES))
    told = (rows != plain).nonzero()[:, 0].tolist()
    assert 60 < len(told) < 200
    hidden = 0
    for place in told:
        text = texts[int(rows[place])]
        skin, style, colour, beardless = who.looks[place].tolist()
        assert captions.glasses_told(rows[place : place + 1]).tolist() == [bool(view.glasses[place])]
        assert ("no hat" in text) == bool(view.hat[place].isnan().any())
        if "skin" not in text.removesuffix(captions.face_prompt()):
            hidden += 1
            continue
        assert f"{list(SKINS)[skin]} skin" in text
        hair = {HAIR_STYLES[style], list(HAIR_COLOURS)[colour]}
        assert "bald" in hair or hair <= set(re.findall(r"\w+", text))
        assert ("no beard" in text or "clean-shaven" in text) == bool(beardless)
    assert 0 < hidden < len(told) / 3


def test_of_a_scene_of_flux_hair_and_hat_stay_and_the_face_becomes_a_persons() -> None:
    points = torch.tensor([[(0.5 + x, 0.54 + y) for x, y in PAINTED]] * 2)
    share = becoming(points, 128)[0, 0]

    def at(x: float, y: float) -> float:
        return share[round((0.54 + y) * 128), round((0.5 + x) * 128)].item()

    assert at(0, 0.06) == at(0, 0.13) == at(0.08, -0.01) == 1, "nose, mouth and eyes"
    assert at(0, -0.15) == at(0.2, 0.0) == at(0.15, -0.13) == 0, "hat, ear and temple"
    who = strangers(2, torch.Generator().manual_seed(3))
    view = fitted(who, points, torch.tensor([True, False]), torch.Generator().manual_seed(3))
    assert (keypoints(who, view) - points).norm(dim=2).mean() < 0.03, "where the scene has its face"
    assert view.glasses.tolist() == [True, False] and bool(view.hat.isnan().all())


def read(reader: onnxruntime.InferenceSession, faces: torch.Tensor) -> torch.Tensor:
    """The normalised embeddings (B, 512) of aligned faces in [0, 1]."""
    name = reader.get_inputs()[0].name
    found = [torch.from_numpy(reader.run(None, {name: face[None].numpy()})[0]) for face in faces.clamp(0, 1) * 2 - 1]
    return torch.nn.functional.normalize(torch.cat(found))


def test_a_scene_of_flux_is_wanted_with_the_face_of_the_person_given() -> None:
    """By the recogniser of the shipped files: before it is somebody, after it is them."""
    who = strangers(12, torch.Generator().manual_seed(5))
    chance = random.Random(5)
    scenes = [replace(random_face(chance), **named_looks(looks)) for looks in who.looks.tolist()]
    points = torch.tensor([[scene.x, scene.y] for scene in scenes])[:, None] + torch.tensor(PAINTED)
    before = render(scenes, 256).float() / 255
    view = fitted(who, points, torch.tensor([scene.glasses for scene in scenes]), torch.Generator().manual_seed(1))
    after = torch.lerp(before, portraits(who, view, 256), becoming(points, 256))
    reader = onnxruntime.InferenceSession(find_pack((shipped.insightface(),)) / "glintr100.onnx")

    def alike(pictures: torch.Tensor) -> float:
        shown = read(reader, crop(pictures, frames(points)))
        return float((read(reader, aligned_views(who, 3)) * shown).sum(1).mean())

    assert alike(after) > 0.5 > alike(before) + 0.2


def at_home(batch: dict[str, torch.Tensor], kind: str, side: int) -> torch.Tensor:
    """The frames of a batch's faces in parts of their pictures of ``side`` latents, not of their windows."""
    frame = batch[f"{kind}_frames"] * (window(kind, side) / side)
    return torch.cat([frame[:, :, :2], frame[:, :, 2:] + batch[f"{kind}_corner"][:, :, None] / side], dim=2)


@pytest.mark.parametrize(("kind", "scale"), [("single", ALONE), ("paired", APART)])
def test_the_window_around_a_face_shows_it_as_the_whole_picture_does(kind: str, scale: tuple[float, float]) -> None:
    """Cut out of what the shipped autoencoder makes of the window alone: the same face as in the whole, as like the
    drawn one.
    """
    chance = torch.Generator().manual_seed(3)
    view, _ = scene_views(12, chance, scale)
    who, side = strangers(12, chance), 32
    frame = frames(keypoints(who, view))
    corner, inside, fits = around(frame, kind, side)
    assert fits.sum() >= 10, "larger ones are not looked at"
    assert (corner >= 0).all() and (corner + window(kind, side) <= side).all()
    assert torch.allclose(at_home({f"{kind}_frames": inside, f"{kind}_corner": corner}, kind, side), frame, atol=1e-5)
    marks = torch.arange(side * side).view(1, 1, side, side).expand(12, 1, side, side)
    for mark, (column, row) in zip(cut_out(marks, corner, window(kind, side)), corner.tolist(), strict=True):
        assert mark[0, 0, 0] == row * side + column and mark[0, 2, 3] == (row + 2) * side + column + 3

    whole = portraits(who, view, 256)
    vae = weights.WeightFile.open(shipped.path(shipped.IDENTITY[0])).part("first_stage_model.")
    coder: Any = vae_module.load(vae, weights.Placement(CPU, torch.float32)).network.module
    with torch.no_grad():
        latents = torch.cat([coder.encode(picture[None] * 2 - 1)[0] for picture in whole])
        entire = torch.cat([coder.decode(latent[None]) for latent in latents])
        part = torch.cat([coder.decode(each[None]) for each in cut_out(latents, corner, window(kind, side))])
    drawn, of_whole, of_part = crop(whole, frame), crop((entire + 1) / 2, frame), crop((part + 1) / 2, inside)
    reader = onnxruntime.InferenceSession(find_pack((shipped.insightface(),)) / "glintr100.onnx")
    known, seen_whole, seen_part = (read(reader, faces) for faces in (drawn, of_whole, of_part))
    assert (seen_whole * seen_part).sum(1)[fits].mean() > 0.8
    assert (known * seen_part).sum(1)[fits].mean() > (known * seen_whole).sum(1)[fits].mean() - 0.05


def test_a_likeness_is_asked_of_everybody_who_is_given(tokenizer: Tokenizer) -> None:
    """The embedding, the place and the picture that are compared belong together, of both people of a pair as well."""

    def scenes(kind: int, people: int) -> Scenes:
        rows = torch.arange(4.0)
        name = kind * 100 + rows.view(4, 1) * 10 + torch.arange(float(people))
        where = (name / 1000).view(4, people, 1, 1) + torch.tensor(
            [[0.0, 0], [0.1, 0], [0.05, 0.1], [0, 0.2], [0.1, 0.2]]
        )
        latents = (kind * 100 + rows * 10).view(4, 1, 1, 1).expand(4, 4, 8, 8)
        faces = name.view(4, people, 1, 1).expand(4, people, 1, 512)
        return Scenes(latents, latents + 5, where, faces, (name % 2 == 0).float(), torch.zeros(4).long())

    plan = replace(SMOKE, batch=64, pair_every=4, painted_every=4)
    texts = captions.Texts.of(tokenizer, 1, CPU)
    bank = Bank(scenes(1, 1), scenes(2, 2), scenes(3, 1))
    batch = Sampler({256: bank}, texts, plan, CPU).batch(plan.buckets[1], 5)
    shown = batch["wanted"][batch["watched"]][:, 0, 0, 0] - 5
    given = batch["own"][:, 0]
    seen = torch.cat([at_home(batch, kind, 8) for kind in WINDOWS])[:, :, 2]
    kinds = (given // 100).int().tolist()
    assert kinds.count(3) == 16 and kinds.count(1) == 6 and kinds.count(2) == 2 * 8
    assert torch.equal(given // 10, shown // 10)
    pairs = given[-16:].view(2, 8)
    assert batch["counts"].tolist() == [1.0] * 30 + [0.25] * 8, "in glasses, as all second people are here"
    assert torch.equal(pairs[0] + 1, pairs[1]) and (seen[-8:, 0] > seen[-16:-8, 0]).all()
    before = (batch["seen"] != batch["wanted"]).flatten(1).any(1)
    assert 4 <= before[:16].sum() < 16 and not before[16:].any()
    assert batch["step"][:16][before[:16]].min() >= 350 and batch["step"][:16].max() < 800


def test_the_smallest_pictures_are_for_the_first_steps(tokenizer: Tokenizer) -> None:
    """They are as many as larger ones of 256 pixels, and later no step takes them; nor are they judged."""
    plan = replace(Plan(), batch=8)
    sampler = rehearsal.stand_in(plan, CPU)
    assert [len(sampler.batch(bucket, 0)["seen"]) for bucket in plan.buckets] == [8, 8, 3]
    sides = [sampler.draw(step)["seen"].shape[-1] for step in (*range(0, 900, 30), *range(1100, 3200, 70))]
    early, late = sides[:30], sides[30:]
    assert 15 < early.count(16) < 30 and late.count(16) == 0 and late.count(64) > late.count(32) > 0
    assert plan.judged_size == 512


def test_what_is_seen_and_what_is_wanted_may_differ() -> None:
    """Whoever finds the picture that is wanted has no loss, whatever picture the noise was put on."""
    step = torch.tensor([700, 400])
    seen, wanted, noise = torch.randn(3, 2, 4, 8, 8)
    batch = {"seen": seen, "wanted": wanted, "noise": noise, "shift": torch.zeros(2, 4, 1, 1), "step": step}
    loss = Loss(cast(Any, None), CPU)
    signal, level = (table[step].view(2, 1, 1, 1) for table in (loss.signal, loss.noise))

    def finds(picture: torch.Tensor) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stages, "predict", lambda painter, x, at, given: (x - signal * picture) / level)
            return loss(batch).item()

    assert finds(wanted) < 1e-9 < 0.1 < finds(seen)


def test_folding_gives_latents_of_the_published_spread() -> None:
    torch.manual_seed(4)
    vae = autoencoder((64, 64)).eval()
    pictures = torch.rand(6, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures)[0]
        same = vae.decode(before)
        fold_latent_format(vae, before.mean(dim=(0, 2, 3)), before.std(dim=(0, 2, 3)), 0.13025)
        after = vae.encode(pictures)[0] * 0.13025
        assert after.mean(dim=(0, 2, 3)).abs().max() < 1e-4 and (after.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
        assert (vae.decode(after / 0.13025) - same).abs().max() < 1e-3


def test_the_whole_way_to_files_and_a_second_run_trains_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = replace(SMOKE, buckets=(Bucket(64, 8, 4, 4, 1.0, 1.0),), vae_scenes=4, vae_batch=2, batch=2, steps=1)

    def run() -> str:
        begun = time.monotonic() - 5000
        face_run = faces.Run(replace(faces.SMOKE, recogniser_steps=1), tmp_path / "faces", CPU, begun)
        Run(plan, tmp_path, face_run, CPU).run()
        return capfd.readouterr().out

    first, second = run(), run()
    assert "sdxl 0/1 loss" in first and "faces found" in first
    seconds = [float(each) for each in re.findall(r"^\[ *([\d.]+)s\]", first, re.M)]
    assert min(seconds) >= 5000, "what judges the face files has a clock of its own"
    assert first.index("are written") < first.index("own photo"), "who stops it while it judges has its models"
    made = files(tmp_path / "models")
    for path in (made.checkpoint, made.adapter, made.control_net):
        assert path.stat().st_size < 30_000_000
    assert "own photo" in second and "loss" not in second

    class Torn(faces.Run):
        def export(self) -> None:
            super().export()
            next(self.folder.rglob("glintr100.onnx")).write_bytes(b"")

    with pytest.raises(SystemExit, match="could not be judged"):
        Run(plan, tmp_path, Torn(replace(faces.SMOKE, recogniser_steps=1), tmp_path / "faces", CPU), CPU).run()
