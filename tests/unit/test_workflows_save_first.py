"""Old graphs: what is scored is saved first, whatever else is submitted is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from ryla_nodes.workflows.save_first import save_first


def graph(image: Any = None, save: str = "RYLA_SaveImage") -> dict[str, Any]:
    return {
        "score": {"class_type": "RYLA_FaceSimilarity", "inputs": {"image": image or ["x", 0], "threshold": 0.4}},
        "save": {"class_type": save, "inputs": {"images": ["x", 0]}},
    }


def test_a_score_takes_its_picture_from_the_save() -> None:
    given = graph()
    assert save_first(given)["score"]["inputs"] == {"image": ["save", 0], "threshold": 0.4}
    assert given == graph(), "what was given is as it was"
    assert save_first(save_first(given)) == save_first(given)


def test_a_save_that_shall_not_run_is_not_made_to() -> None:
    assert save_first(graph(), ["score"]) == graph()
    assert save_first(graph(), ["score", "save"]) == save_first(graph())


@pytest.mark.parametrize(
    "given",
    [None, [], "x", {}, {"1": 2}, {"1": {"class_type": "RYLA_SaveImage"}}, graph(["x", 1]), graph(["save", 0]),
     graph(save="SaveImage"), graph("text"), {"1": {"class_type": "RYLA_FaceSimilarity", "inputs": [1]}}],
)  # fmt: skip
def test_anything_else_is_left_alone(given: Any) -> None:
    assert save_first(given) == given
