"""Several LoRAs in one id."""

from __future__ import annotations

from pathlib import Path

import lora_files
import pytest
from ryla_nodes.errors import RylaError
from ryla_nodes.loras import stack
from ryla_nodes.loras.stack import Weighted
from ryla_nodes.loras.store import LoraStore


def none(_: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("anna", [("anna", 1)]),
        ("anna*0.8+style", [("anna", 0.8), ("style", 1)]),
        (" anna * .5 + style*-1.", [("anna", 0.5), ("style", -1)]),
        ("anna+anna", [("anna", 1), ("anna", 1)]),
        ("anna*2", [("anna", 2)]),
        ("", [("", 1)]),
    ],
)
def test_parts_and_factors(text: str, parts: list[tuple[str, float]]) -> None:
    assert stack.parse(text, none) == tuple(Weighted(*part) for part in parts)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("anna+", "part 2 is empty"),
        ("+anna", "part 1 is empty"),
        ("*0.5+anna", "part 1 is empty"),
        ("anna*+b", "'anna*'"),
        ("anna*nan", "'anna*nan'"),
        ("anna*1e9", "'anna*1e9'"),
        ("anna*0.5*2", "'anna*0.5*2'"),
        ("+".join("abcdefghi"), "9 LoRAs"),
    ],
)
def test_the_part_that_is_wrong_is_named(text: str, word: str) -> None:
    with pytest.raises(RylaError) as caught:
        stack.parse(text, none)
    assert caught.value.code == "invalid_lora_id"
    assert word in caught.value.message
    assert "anna*0.8+style" in caught.value.hint


def test_an_id_with_a_file_of_its_own_stays_whole(tmp_path: Path) -> None:
    for name in ("a+b", "a", "b"):
        lora_files.small(tmp_path / f"{name}.safetensors")
    refreshed: list[int] = []
    store = LoraStore([tmp_path], lambda: refreshed.append(1))
    assert stack.parse("a+b", store.has) == (Weighted("a+b"),)
    assert stack.parse("b+a", store.has) == (Weighted("b"), Weighted("a"))
    assert stack.parse("a+b*0.5", store.has) == (Weighted("a"), Weighted("b", 0.5))
    assert not refreshed, "the volume is refreshed for a text that is no id"
