"""``best_of`` at a gateway: the same choice as the runner's, told by a header, by JSON and to the gateway's client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway.served import Served, options_of, served
from ryla_nodes.client import GatewayClient, GatewayResult
from ryla_nodes.workflows.best_of import seeds
from unit.fake_engine_parts import jpeg
from unit.scoring_engine import ScoringEngine, add_likeness, score

FOUR = seeds(7, 4)
BEST = max(FOUR, key=score)
ASKED = {"prompt": "a person", "seed": 7, "best_of": 4}
JSON = {"Accept": "application/json"}


@pytest.fixture(scope="module")
def scoring() -> Iterator[ScoringEngine]:
    with ScoringEngine(make=jpeg, seconds=0.02) as one:
        yield one


@pytest.fixture(scope="module")
def gateway(scoring: ScoringEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("gateway")
    options = options_of(root, scoring.url, workflows=("paint", "likeness"))
    add_likeness(root / "workflows")
    with served(options) as one:
        yield one


@pytest.fixture(autouse=True)
def well(scoring: ScoringEngine) -> None:
    scoring.failing.clear()
    scoring.seeds.clear()


def test_the_header_and_the_object_tell_the_scores(gateway: Served, scoring: ScoringEngine) -> None:
    answer = gateway.post("likeness", **ASKED)
    assert answer.status_code == 200 and answer.headers["X-Face-Similarity"] == f"{score(BEST):.4f}"
    assert sorted(scoring.seeds) == sorted(FOUR)
    assert answer.headers["X-Prompt-Id"].encode() in answer.content  # The very picture that has this score.
    told = gateway.post("likeness", headers=JSON, **ASKED).json()
    assert [(each["seed"], each["similarity"], each["chosen"]) for each in told["best_of"]] == [
        (seed, score(seed), seed == BEST) for seed in FOUR
    ]
    assert told["face_similarity"] == score(BEST) and told["seed"] == 7
    # Stored, not only remembered.
    again = gateway.http.get(f"/jobs/{told['id']}").json()
    assert again["best_of"] == told["best_of"]


def test_what_fails_is_told_without_paths_and_the_rest_counts(gateway: Served, scoring: ScoringEngine) -> None:
    scoring.failing = {BEST}
    told = gateway.post("likeness", headers=JSON, **ASKED).json()
    failed = [each for each in told["best_of"] if "error" in each]
    assert [each["seed"] for each in failed] == [BEST] and failed[0]["error"]["code"] == "node_failed"
    assert told["state"] == "succeeded" and "1 of 4 pictures failed" in told["warnings"][0]
    assert scoring.url not in str(told)


def test_the_client_of_gateways_knows_all_of_it(gateway: Served, scoring: ScoringEngine) -> None:
    with GatewayClient(gateway.url) as client:
        result = client.run("likeness", ASKED)
    assert isinstance(result, GatewayResult) and result.face_similarity == score(BEST)
    assert [candidate.similarity for candidate in result.candidates] == [score(seed) for seed in FOUR]
    assert [candidate.seed for candidate in result.candidates if candidate.chosen] == [BEST]


def test_bad_numbers_and_workflows_without_a_score_are_refused(gateway: Served, scoring: ScoringEngine) -> None:
    for value, said in ((0, "below the smallest"), (-1, "below"), (17, "above the largest, 16"), ("x", "number")):
        answer = gateway.post("likeness", **{**ASKED, "best_of": value})
        assert answer.status_code == 422 and answer.json()["code"] == "invalid_parameter", value
        assert "best_of" in answer.json()["detail"], (value, said)
    refused = gateway.post("paint", prompt="x", best_of=2)
    assert refused.status_code == 422 and refused.json()["code"] == "unknown_parameter"
    assert "paint gives no face score" in refused.json()["detail"] and "likeness" in refused.json()["detail"]
    assert not scoring.seeds
    schema = gateway.http.get("/openapi.json").json()["components"]["schemas"]["LikenessRequest"]
    assert schema["properties"]["best_of"]["anyOf"][0]["maximum"] == 16
