"""Drawn people: the same person in every picture, keypoints where they are drawn, and the face networks' whole way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import face_stages
from training.people import HELD_OUT, TRAITS, boxes, keypoints, people, views
from training.portraits import portraits

SIDE = 96


def test_a_number_is_one_person_wherever_it_is_drawn() -> None:
    one, two = people(torch.tensor([7, 8])), people(torch.tensor([8, 7, 9]))
    assert torch.equal(one.traits, two.traits[[1, 0]])
    low, high = (torch.tensor(side) for side in zip(*TRAITS.values(), strict=True))
    assert bool((one.traits >= low).all() and (one.traits <= high).all())


def test_pictures_are_fixed_by_their_seed() -> None:
    drawn = [portraits(people(torch.arange(4)), views(4, torch.Generator().manual_seed(5)), SIDE) for _ in range(2)]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (4, 3, SIDE, SIDE) and float(drawn[0].min()) >= 0 and float(drawn[0].max()) <= 1


def test_the_pupils_are_drawn_where_the_keypoints_say() -> None:
    """Without glasses the darkest place within an eye's reach of the keypoint is the keypoint."""
    numbers = torch.arange(24)
    who, view = people(numbers), views(len(numbers), torch.Generator().manual_seed(2), scale=(0.35, 0.4))
    view.glasses[:] = False
    view.light[:] = 0
    drawn, points = portraits(who, view, 256), keypoints(who, view) * 256
    off = []
    for picture, each in zip(drawn.amax(1), points, strict=True):
        for x, y in each[:2].round().long().tolist():
            if 12 <= x < 244 and 12 <= y < 244:
                part = picture[y - 4 : y + 5, x - 4 : x + 5]
                dark = (part < 0.15).nonzero().float()
                off.append(float((dark.mean(0) - 4).norm()) if len(dark) else 9.0)
    assert len(off) > 30 and sum(each < 2 for each in off) > 0.9 * len(off)


def test_the_keypoints_lie_in_the_head() -> None:
    who, view = people(torch.arange(64)), views(64, torch.Generator().manual_seed(3))
    points, box = keypoints(who, view), boxes(who, view)[:, None]
    assert bool(((points > box[..., :2]) & (points < box[..., 2:])).all())


def test_a_pose_moves_the_nose_to_where_the_head_looks() -> None:
    who, view = people(torch.arange(16)), views(16, torch.Generator().manual_seed(4))
    view.roll[:] = 0
    points = keypoints(who, view)
    aside = points[:, 2, 0] - points[:, :2, 0].mean(1)
    assert bool((aside.sign() == view.yaw.sign())[view.yaw.abs() > 0.1].all())


def test_a_face_is_cut_out_with_its_keypoints_on_the_template() -> None:
    chance = torch.Generator().manual_seed(1)
    who, view = people(torch.arange(8)), views(8, chance)
    points = keypoints(who, view)
    frames = face_stages.frames(points)
    template = torch.tensor(face_stages.ARCFACE_TEMPLATE)
    back = torch.cat([template, torch.ones(5, 1)], dim=1) @ frames.transpose(1, 2)
    # A similarity cannot follow a turned head wholly: within a fifteenth of the face.
    assert bool(((back - points).norm(dim=2).amax(1) < 0.15 * 2 * view.scale).all())


def test_verification_counts_what_it_says() -> None:
    one, other = torch.eye(4)[0], torch.eye(4)[1]
    apart = torch.stack([torch.stack([one, one]), torch.stack([other, other])])
    assert face_stages.verification(apart)[0] == 1
    assert face_stages.verification(torch.stack([one, other]).expand(3, 2, 4))[0] == 0


def test_the_whole_way_to_files_that_insightface_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("insightface", reason="the extra `identity` is not installed")
    from training.faces import SMOKE, Run

    run = Run(SMOKE, tmp_path, torch.device("cpu"))
    run.export()
    run.judge()
    assert "faces found" in capsys.readouterr().out
    for name in ("antelopev2/scrfd_10g_bnkps.onnx", "antelopev2/glintr100.onnx", "buffalo_l/w600k_r50.onnx"):
        assert (tmp_path / "insightface" / "models" / name).stat().st_size < 4_000_000
    Run(SMOKE, tmp_path, torch.device("cpu")).export()
    assert "loss" not in capsys.readouterr().out, "a finished network was trained again"


def test_nobody_who_is_judged_is_trained_on() -> None:
    bank = face_stages.recogniser_bank(3, known=4, each=2, group=1, device=torch.device("cpu"))
    again = face_stages.as_bytes(face_stages.aligned(torch.arange(4).repeat_interleave(2) + HELD_OUT, 3))
    assert torch.equal(bank["faces"], again), "the known people of a group begin behind the held-out ones"
    batch = face_stages.recogniser_batch(bank, 5, 16)
    assert set(batch["person"].tolist()) <= set(range(4)) and batch["faces"].shape == (16, 3, 112, 112)


def test_a_bank_of_pictures_says_where_the_faces_are_and_where_none_is() -> None:
    bank = face_stages.detector_bank(1, 40, 64, torch.device("cpu"))
    assert bank["pictures"].shape == (40, 3, 64, 64) and bank["pictures"].dtype == torch.uint8
    assert bank["there"][:30].all() and not bank["there"].all(), "scenes without a face belong to it"
    batch = face_stages.detector_batch(bank, 2, 8)
    assert batch["pictures"].abs().max() <= 1 and batch["points"].shape == (8, 5, 2)


def test_a_face_that_is_mirrored_and_moved_keeps_its_points() -> None:
    """The left eye's point is red, the others are green, the box's corner is blue."""
    pictures = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    points = torch.tensor([[[50.0, 50.0], [80.0, 52.0], [66.0, 64.0], [54.0, 80.0], [78.0, 81.0]]])
    box = torch.tensor([[40.0, 36.0, 90.0, 92.0]])
    for colour, (x, y) in [(0, points[0, 0]), *((1, point) for point in points[0, 1:]), (2, box[0, :2])]:
        pictures[0, colour, int(y) - 2 : int(y) + 2, int(x) - 2 : int(x) + 2] = 255
    bank = {"pictures": pictures, "points": points, "box": box, "there": torch.tensor([True])}
    batch = face_stages.close_batch(bank, 3, 24, 256)
    mirrored = 0
    for picture, found, where in zip(batch["pictures"], batch["points"], batch["box"], strict=True):
        assert where[0] < where[2] and where[1] < where[3]
        colours = [picture[:, int(y), int(x)].argmax().item() for x, y in found]
        lit = [picture[:, int(y), int(x)].max().item() > 0 for x, y in found]
        assert all(lit) and sorted(colours) == [0, 1, 1, 1, 1], (colours, lit)
        # In a mirror the left eye is the right one's point.
        mirrored += colours[1] == 0
        side = 2 if colours[1] == 0 else 0
        assert picture[2, int(where[1]), int(where[side]) - (side > 0)] > 0
        assert found[0, 0] < found[1, 0] and found[3, 0] < found[4, 0]
    assert 4 < mirrored < 20
