"""The trigger word's rule: once, in front, comma-separated, unless it is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ryla_nodes.loras.trigger import add_trigger, has_phrase


@pytest.mark.parametrize(
    ("text", "trigger", "expected"),
    [
        ("a portrait", "ohwx", "ohwx, a portrait"),
        ("a portrait", "ohwx woman", "ohwx woman, a portrait"),
        ("a portrait", " ohwx ", "ohwx, a portrait"),
        ("", "ohwx", "ohwx"),
        ("  \n", "ohwx", "ohwx"),
        (", a portrait", "ohwx", "ohwx, a portrait"),
        # Nothing to add: not one byte changes.
        ("  a portrait ", "", "  a portrait "),
        (" a portrait ", " , ", " a portrait "),
        ("ohwx, a portrait", "ohwx", "ohwx, a portrait"),
        ("A portrait of OHWX.", "ohwx", "A portrait of OHWX."),
        ("portrait,ohwx,smiling", "ohwx", "portrait,ohwx,smiling"),
        ("(ohwx:1.2) in a park", "ohwx", "(ohwx:1.2) in a park"),
        ("ohwx's garden", "ohwx", "ohwx's garden"),
        ('"ohwx"', "ohwx", '"ohwx"'),
        ("photo of Ohwx\n Woman", "ohwx woman", "photo of Ohwx\n Woman"),
        # Part of a longer word is not the word.
        ("ohwxy at night", "ohwx", "ohwx, ohwxy at night"),
        ("sks_dog at night", "sks", "sks, sks_dog at night"),
        ("annabel", "anna", "anna, annabel"),
        ("ohwx2", "ohwx", "ohwx, ohwx2"),
        ("woman ohwx", "ohwx woman", "ohwx woman, woman ohwx"),
        # Several phrases: what is missing is added, in order, once.
        ("red hair, a portrait", "ohwx, red hair", "ohwx, red hair, a portrait"),
        ("ohwx with red hair", "ohwx, red hair", "ohwx with red hair"),
        ("x", "ohwx, OHWX, ohwx", "ohwx, x"),
        # Letters of other scripts.
        ("zoë laughing", "Zoe\u0308", "zoë laughing"),
        ("STRASSE", "straße", "STRASSE"),
        ("一个小红在公园", "小红", "一个小红在公园"),
        ("公园", "小红", "小红, 公园"),
        # Triggers that begin or end with no letter, and those that look like patterns.
        ("in <s0><s1> style", "<s0><s1>", "in <s0><s1> style"),
        ("aab", "a.b", "a.b, aab"),
        ("portrait", "C++ (x", "C++ (x, portrait"),
    ],
)
def test_add_trigger(text: str, trigger: str, expected: str) -> None:
    assert add_trigger(text, trigger) == expected


@given(text=st.text(max_size=60), trigger=st.text(max_size=20))
def test_is_idempotent_and_keeps_the_prompt(text: str, trigger: str) -> None:
    once = add_trigger(text, trigger)
    assert add_trigger(once, trigger) == once
    assert once == text or once.endswith(text.lstrip(" \t\r\n,"))
    assert all(has_phrase(once, phrase) for phrase in trigger.split(","))
