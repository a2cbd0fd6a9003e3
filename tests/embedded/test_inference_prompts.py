"""Prompt weights and chunks, by ComfyUI's rules (the same strings run through a real one in tests/comfyui)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryla_nodes.engines.embedded.inference.tokenizers import PromptTokenizer, weighted_segments

START, END, PAD = 1000, 1001, 1002


def by_character(**frame: int) -> PromptTokenizer:
    """One token a character, start and end around them."""
    return PromptTokenizer(lambda text: [ord(character) for character in text], START, END, PAD, **frame)


@pytest.mark.parametrize(
    ("prompt", "segments"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("", []),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", 1.1 * 1.1)]),
        ("(red:1.5)", [("red", 1.5)]),
        ("((red:1.5))", [("red", 1.5)]),
        ("(a (red:1.5) cat)", [("a ", 1.1), ("red", 1.5), (" cat", 1.1)]),
        ("(red:-0.5)", [("red", -0.5)]),
        ("(ratio 16:9 wide)", [("ratio 16:9 wide", 1.1)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        (r"a \(plain\) (b\):2)", [("a (plain) ", 1.0), ("b)", 2.0)]),
        ("(open", [("(open", 1.0)]),
        ("close) (b", [("close) (b", 1.0)]),
        ("[a:b] <c>", [("[a:b] <c>", 1.0)]),
    ],
)
def test_weights(prompt: str, segments: list[tuple[str, float]]) -> None:
    found = weighted_segments(prompt)
    assert [text for text, _ in found] == [text for text, _ in segments]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in segments])


@given(st.text(alphabet=st.characters(blacklist_characters="()\\\0\1\2")))
def test_a_prompt_without_parentheses_is_one_segment(prompt: str) -> None:
    assert weighted_segments(prompt) == ([(prompt, 1.0)] if prompt else [])


def test_a_short_prompt_is_framed_and_padded() -> None:
    (chunk,) = by_character(chunk_length=8).tokenize("ab")
    assert [token for token, _ in chunk] == [START, ord("a"), ord("b"), END, PAD, PAD, PAD, PAD]


def test_a_minimum_length_is_no_maximum() -> None:
    tokenizer = PromptTokenizer(lambda text: [ord(c) for c in text], None, END, 0, min_length=4)
    assert [token for token, _ in tokenizer.tokenize("a")[0]] == [ord("a"), END, 0, 0]
    assert len(tokenizer.tokenize("abcdefgh")[0]) == 9


def test_a_long_segment_is_broken_over_chunks() -> None:
    chunks = by_character(chunk_length=10).tokenize("abcdefghijklm")
    assert [len(chunk) for chunk in chunks] == [10, 10]
    assert [token for token, _ in chunks[0]] == [START, *map(ord, "abcdefgh"), END]
    assert [token for token, _ in chunks[1]][:7] == [START, *map(ord, "ijklm"), END]


def test_a_short_segment_is_kept_together() -> None:
    chunks = by_character(chunk_length=10).tokenize("abcdef(ghi:2)")
    assert [token for token, _ in chunks[0]] == [START, *map(ord, "abcdef"), END, PAD, PAD]
    assert chunks[1][1:4] == [(ord(character), 2.0) for character in "ghi"]


@given(st.text(alphabet="ab(): 1", max_size=60))
def test_every_chunk_is_full_and_no_token_is_lost(prompt: str) -> None:
    chunks = by_character(chunk_length=10).tokenize(prompt)
    assert {len(chunk) for chunk in chunks} == {10}
    assert all(chunk[0] == (START, 1.0) for chunk in chunks)
    tokens = [token for chunk in chunks for token, _ in chunk if token < START]
    assert tokens == [ord(character) for text, _ in weighted_segments(prompt) for character in text]


def test_the_empty_prompt_of_a_length() -> None:
    assert by_character().empty(5) == [START, END, PAD, PAD, PAD]
    assert PromptTokenizer(lambda text: [], None, END, 0).empty(3) == [END, 0, 0]
