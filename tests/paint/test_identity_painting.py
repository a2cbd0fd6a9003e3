"""The person of the photo is in the picture: held-out people, through ``sdxl-instantid``, on the shipped models.

The rates are ``benchmarks/people.py``'s. Here a few people, in few steps, have to be more like their photo than like
somebody else's, on average; models that were not trained do not get there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import pytest
import torch

pytest.importorskip("insightface", reason="the extra `identity` is not installed")

from ryla_nodes.models import shipped
from ryla_nodes.models.folders import ModelFolders
from tokenizers import Tokenizer

from training.evaluation import read
from training.likeness import ablation, cast
from training.likeness.engine import SharedEngine, Studio
from training.likeness.rows import OWN, Asked, Facts, Set, strength_name
from training.likeness.scores import Eyes, alike
from training.likeness.together import Together
from training.sdxl import networks
from training.sdxl.export import export_models, files
from training.sdxl.plan import Plan

LIKER = 0.10
"""How much more like its person than like others a picture is at least, in the mean cosine."""
NOBODY = 0.10
"""How like the person of the photo pictures are at most at a strength of 0, in the mean cosine."""
LOST = 0.15
"""How much less like its person a picture is at least when the adapter's layers are in each other's place."""
KEYPOINTS = 0.08
"""How far the keypoints are from those asked for, in widths of the face, in the middle one of the pictures."""

PEOPLE, FEW, SIZE, STEPS = 8, 4, 256, 8
"""All are painted with their own photo; what is to be compared with that, of a few."""


class Gallery:
    """The pictures of ``engine``, below ``folder``."""

    def __init__(self, engine: SharedEngine, folder: Path, steps: int = STEPS) -> None:
        self.engine, self.eyes = engine, Eyes(shipped.insightface())
        self.set = Set(folder, self.eyes, PEOPLE, SIZE, steps)

    def paint(self, kind: str, count: int) -> list[Facts]:
        """What is noted of each of ``count`` people's pictures of a kind."""
        asked = [Asked(kind, number) for number in range(count)]
        made = dict(Studio(self.engine, count).results(asked, self.set.work))
        return [made[each] for each in asked]

    def of_others(self) -> list[float]:
        """How like somebody else each person's picture is: like the next one.

        That is how like this one a picture with the next one's photo is: nothing else of a person goes in.
        """
        known = [self.eyes.face(cast.photo(number, self.engine.files.input)) for number in range(PEOPLE)]
        made = [self.eyes.faces(read(self.set.picture(Asked(OWN, number)))) for number in range(PEOPLE)]
        return [alike(known[number - 1], faces[0]) or 0.0 if faces else 0.0 for number, faces in enumerate(made)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> SharedEngine:
    return SharedEngine(tmp_path_factory.mktemp("home"), ModelFolders({}), together=Together(PEOPLE))


@pytest.fixture(scope="module")
def gallery(engine: SharedEngine, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(engine, tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def own(gallery: Gallery) -> list[Facts]:
    """What is noted of everybody's picture with their own photo."""
    return gallery.paint(OWN, PEOPLE)


def cosines(painted: Sequence[Facts]) -> list[float]:
    """How like its person each picture is; one without a face is like nobody."""
    return [facts.get("similarity") or 0.0 for facts in painted]


def test_the_person_of_the_photo_is_in_the_picture_and_nobody_else(own: list[Facts], gallery: Gallery) -> None:
    assert not [facts["error"] for facts in own if "error" in facts]
    found, others = cosines(own), gallery.of_others()
    assert fmean(found) - fmean(others) > LIKER, (found, others)


def test_at_a_strength_of_0_it_is_anybody(own: list[Facts], gallery: Gallery) -> None:
    found = cosines(gallery.paint(strength_name(0), FEW))
    assert fmean(found) < min(NOBODY, fmean(cosines(own))), found


def test_layers_in_the_wrong_order_lose_the_person(own: list[Facts], engine: SharedEngine, tmp_path: Path) -> None:
    adapter = ablation.write(engine.default_identity().adapter, "wrong-order", tmp_path)
    found = cosines(Gallery(engine.with_adapter(adapter), tmp_path).paint(OWN, FEW))
    assert fmean(found) < fmean(cosines(own[:FEW])) - LOST, found


def test_the_face_is_where_it_was_asked_for(own: list[Facts]) -> None:
    off = [facts["off"] for facts in own if facts.get("off") is not None]
    assert len(off) >= PEOPLE - 1 and median(off) < KEYPOINTS, off


def test_models_that_were_not_trained_do_not_get_there(engine: SharedEngine, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(shipped.path("ryla-paint-sdxl-clip_l-tokenizer")))
    torch.manual_seed(0)
    painter = networks.Painter(tokenizer.get_vocab_size())
    export_models(painter, networks.autoencoder(Plan().vae_widths), tokenizer, tmp_path)
    untrained = replace(engine, identity=replace(files(tmp_path), insightface=shipped.insightface()))
    gallery = Gallery(untrained, tmp_path, steps=2)
    found = cosines(gallery.paint(OWN, PEOPLE))
    assert fmean(found) - fmean(gallery.of_others()) < LIKER, found
