"""The nodes in other languages: every text of every node, where both routes into ComfyUI find it, none out of date."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
LANGUAGES = ("de", "en", "es", "fr", "ja", "ko", "zh")
# What stays as it is in every language: values, names of files and folders, measures.
KEPT = re.compile(
    r"%\w+%|--[\w-]+|\b[\w.-]+\.safetensors|ip-adapter\.bin|\b(?:auto|concat|exact|fp8|anna\*0\.8\+style)\b", re.ASCII
)
sys.path.insert(0, str(REPO / "scripts"))
make_locales: Any = importlib.import_module("make_locales")


def of(language: str) -> Any:
    return json.loads((REPO / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def texts(definitions: Any) -> list[tuple[str, str]]:
    """Every text of a language with the place where it stands."""
    if isinstance(definitions, str):
        return [("", definitions)]
    return [(f"{key}/{place}", text) for key, value in definitions.items() for place, text in texts(value)]


def test_no_text_lacks_a_translation_and_none_is_left_over() -> None:
    assert list(make_locales.differences()) == [], "scripts/translations/*.toml"


def test_the_files_are_current_in_both_places() -> None:
    assert sorted(make_locales.languages()) == list(LANGUAGES)
    written = make_locales.locales()
    assert {path.relative_to(REPO).as_posix() for path in written} == {
        f"{folder}locales/{language}/nodeDefs.json"
        for folder in ("", "custom_nodes/ryla_nodes/")
        for language in LANGUAGES
    }
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, "run scripts/make_locales.py"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_what_english_says(language: str) -> None:
    english, other = dict(texts(of("en"))), dict(texts(of(language)))
    assert other.keys() == english.keys() and all(other.values())
    for place, text in other.items():
        assert not set("{}@|") & set(text), f"{place}: the editor reads these as markup"
        assert sorted(KEPT.findall(text)) == sorted(KEPT.findall(english[place])), place
    if language != "en":
        same = [place for place, text in other.items() if text == english[place] and " " in text]
        assert same == [], "left in English"


def test_a_text_that_changes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    names, said = make_locales.english()
    monkeypatch.setattr(make_locales, "english", lambda: (names | {"new_input"}, said - {"The identity."}))
    faults = list(make_locales.differences())
    assert "zh: no translation of 'new_input'" in faults
    assert "de: nothing says 'The identity.' any more" in faults
    assert len(faults) == 2 * (len(LANGUAGES) - 1)
