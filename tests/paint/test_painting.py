"""What was asked for is in the picture: the shipped models through the real ``ryla run``, judged by the checker.

The full evaluation is ``make evaluate``, at 256x256. Here a few smoke pictures, of 128x128 in four steps, have to reach
what models of the full evaluation's goals miss only once in ten thousand times; untrained models must not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copy2

import numpy as np
import pytest
import tiny_flux
from PIL import Image
from ryla_nodes.engines.embedded.inference import tokenizers
from scipy.stats import binom

from training import evaluation
from training.evaluation import Asked, Key, Painted, Share
from training.render import render

SIZE, STEPS = 128, 4
SEED = 7
SHAPES, FACES, MIRAS = 24, 12, 10
SHAPE_RATES = {"shape": 0.95, "colour": 0.95, "position": 0.95, "all": 0.90}
FACE_RATES = {"skin": 0.9, "hair": 0.9, "hair_colour": 0.9, "glasses": 0.9, "beard": 0.9, "hat": 0.9, "all": 0.75}
MIRA_RATE, WITHOUT_RATE = 0.90, 0.05
FALSE_ALARM = 1e-4

Made = Mapping[Key, Painted]
ASKED_SHAPES = evaluation.scenes(SHAPES, SEED, faces=False)
ASKED_FACES = evaluation.scenes(FACES, SEED, faces=True)
WITH, WITHOUT = evaluation.mira(MIRAS, SEED, 1.0), evaluation.mira(MIRAS, SEED, None)
ZERO = evaluation.mira(2, SEED, 0.0)
SOME_SHAPES, SOME_WITHOUT = ASKED_SHAPES[::2], WITHOUT[::2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Made:
    asked = [*ASKED_SHAPES, *ASKED_FACES, *WITHOUT, *ZERO, *WITH]
    home = tmp_path_factory.mktemp("home")
    return evaluation.paint(asked, home / "pictures", SIZE, STEPS, home)


@pytest.fixture(scope="module")
def untrained(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Some of the prompts on made-up weights, which the engine takes for the real ones by their names."""
    home = tmp_path_factory.mktemp("home")
    made, models = tiny_flux.files(tiny_home / "models"), home / "models"
    names = {
        "transformer": "diffusion_models/flux1-dev",
        "clip_l": "text_encoders/clip_l",
        "t5xxl": "text_encoders/t5xxl_fp16",
        "vae": "vae/ae",
    }
    for part, name in names.items():
        source, target = getattr(made, part), models / f"{name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        copy2(source, target)
        if tokenizers.beside(source).is_file():
            copy2(tokenizers.beside(source), tokenizers.beside(target))
    asked = [*SOME_SHAPES, *ASKED_FACES, *SOME_WITHOUT]
    return evaluation.paint(asked, home / "pictures", SIZE, STEPS, home)


def shares(asked: Sequence[Asked], made: Made) -> dict[str, Share]:
    return evaluation.shares(evaluation.verdicts([one.scene for one in asked], [made[one.key].file for one in asked]))


def reached(found: Mapping[str, Share], rates: Mapping[str, float]) -> dict[str, bool]:
    return {part: found[part].right >= least(found[part].total, rate) for part, rate in rates.items()}


def least(count: int, rate: float) -> int:
    """How many of ``count`` pictures are right at least, but for FALSE_ALARM, when each is so at ``rate``."""
    return int(binom.ppf(FALSE_ALARM, count, rate))


def most(count: int, rate: float) -> int:
    return int(binom.isf(FALSE_ALARM, count, rate))


def test_shapes_are_what_was_asked_for(trained: Made) -> None:
    found = shares(ASKED_SHAPES, trained)
    assert all(reached(found, SHAPE_RATES).values()), found


def test_faces_are_what_was_asked_for(trained: Made) -> None:
    found = shares(ASKED_FACES, trained)
    assert all(reached(found, FACE_RATES).values()), found


def test_the_lora_draws_its_character_and_nothing_else_does(trained: Made) -> None:
    with_her, without = shares(WITH, trained), shares(WITHOUT, trained)
    assert without["all"].right <= most(MIRAS, WITHOUT_RATE), without
    assert with_her["all"].right >= least(MIRAS, MIRA_RATE), with_her


def test_a_lora_of_strength_0_changes_no_pixel(trained: Made) -> None:
    for zero, without, full in zip(ZERO, WITHOUT, WITH, strict=False):
        pictures = [evaluation.read(trained[one.key].file) for one in (zero, without, full)]
        assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_untrained_models_reach_none_of_it(untrained: Made) -> None:
    shapes, faces = shares(SOME_SHAPES, untrained), shares(ASKED_FACES, untrained)
    assert not any(reached(shapes, SHAPE_RATES).values()), shapes
    assert not any(reached(faces, {part: FACE_RATES[part] for part in ("skin", "hair", "all")}).values()), faces
    assert shares(SOME_WITHOUT, untrained)["all"].right < least(len(SOME_WITHOUT), MIRA_RATE)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_drawings_judged_in_the_same_way_are_right(tmp_path: Path, suffix: str) -> None:
    asked = [*evaluation.scenes(100, SEED, faces=False), *evaluation.scenes(100, SEED, faces=True), *WITH[:5]]
    scenes = [one.scene for one in asked]
    files = [tmp_path / f"{row}.{suffix}" for row in range(len(scenes))]
    for picture, file in zip(render(scenes, SIZE).permute(0, 2, 3, 1).numpy(), files, strict=True):
        Image.fromarray(picture).save(file, quality=92)
    verdicts = evaluation.verdicts(scenes, files)
    for part in (verdicts[:100], verdicts[100:]):
        assert all(share.rate >= 0.99 for share in evaluation.shares(part).values())


def test_in_a_shuffle_no_scene_stays_where_it_is() -> None:
    scenes = [one.scene for one in ASKED_SHAPES]
    for seed in range(20):
        others = evaluation.shuffled(scenes, seed)
        assert sorted(map(str, others)) == sorted(map(str, scenes))
        assert not any(one is other for one, other in zip(scenes, others, strict=True))
