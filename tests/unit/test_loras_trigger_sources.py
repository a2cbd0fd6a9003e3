"""Trigger words that are in the file or beside it: every place where trainers and sites write them, case kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lora_files
import numpy as np
import pytest
from ryla_nodes.loras import sidecar
from ryla_nodes.loras.inspect import inspect

TENSORS = lora_files.kohya([("double_blocks.0.img_attn.qkv", 24, 8)])
FLUXGYM = ("hhh a woman on a beach, in a red dress.", "hhh a woman in a garden, smiling.", "hhh a close up, freckles.")


def tags(captions: Sequence[str]) -> dict[str, int]:
    """As sd-scripts counts: split at commas, in lower case."""
    counts: dict[str, int] = {}
    for tag in (part.strip().lower() for caption in captions for part in caption.split(",")):
        counts[tag] = counts.get(tag, 0) + 1
    return counts


def kohya(*subsets: dict[str, Any], captions: dict[str, dict[str, int]] | None = None) -> dict[str, str]:
    """The metadata of sd-scripts for these subsets."""
    filled = [
        {"img_count": 3, "num_repeats": 10, "is_reg": False, "caption_prefix": None, **subset} for subset in subsets
    ]
    folders = {subset["image_dir"]: {"n_repeats": 10, "img_count": subset["img_count"]} for subset in filled}
    return {
        "ss_datasets": json.dumps([{"is_dreambooth": True, "subsets": filled}]),
        "ss_dataset_dirs": json.dumps({name: folder for name, folder in folders.items() if not name.startswith("reg")}),
        "ss_tag_frequency": json.dumps(captions or {}),
    }


def subset(folder: str, token: str | None, **more: Any) -> dict[str, Any]:
    return {"image_dir": folder, "class_tokens": token, **more}


ONLY_TAG = {"ss_tag_frequency": json.dumps({"10_x": {"ohwx": 12, "park": 3}}),
            "ss_dataset_dirs": json.dumps({"10_x": {"img_count": 12}})}  # fmt: skip
METADATA: dict[str, tuple[dict[str, str], str | None]] = {
    "modelspec": ({"modelspec.trigger_phrase": "OHWX Woman"}, "OHWX Woman"),
    "SimpleTuner": ({"modelspec.architecture": "flux-1-dev/lora", "trained_words": "ohwx woman", "ss_tag_frequency":
                     json.dumps({"photos": {"ohwx woman": 12, "smiling": 8}})}, "ohwx woman"),
    "a list of words": ({"trainedWords": '["ohwx", "red hair"]'}, "ohwx, red hair"),
    "ai-toolkit": ({"ss_tag_frequency": json.dumps({"1_Ohwx": {"Ohwx": 1}})}, "Ohwx"),
    "ai-toolkit, own field": ({"trigger_word": "P3rson"}, "P3rson"),
    "kohya, the one tag": (ONLY_TAG, "ohwx"),
    "kohya, folder in capitals": (
        kohya(subset("10_OHWX Woman", None), captions={"10_OHWX Woman": {"ohwx woman": 3}}), "OHWX Woman"),
    "kohya, class tokens in capitals": (
        kohya(subset("10_x", "OHWX Woman"), captions={"10_x": {"ohwx woman": 3, "park": 1}}), "OHWX Woman"),
    "kohya, no captions": (kohya(subset("10_OHWX woman", "OHWX woman")), "OHWX woman"),
    "kohya, folder only": ({"ss_dataset_dirs": json.dumps({"10_Zara Q": {"img_count": 3}})}, "Zara Q"),
    "kohya, caption prefix": (
        kohya(subset("10_x", "woman", caption_prefix="OHWX woman,"), captions={"10_x": {"smiling": 3}}), "OHWX woman"),
    "FluxGym": (kohya(subset("anna", "hhh"), captions={"anna": tags(FLUXGYM)}), "hhh"),
    "FluxGym, several resolutions": (
        kohya(subset("anna", "Hhh"), subset("anna", "Hhh"), captions={"anna": tags(FLUXGYM)}), "Hhh"),
    "beside regularisation images": (
        kohya(subset("10_ohwx", "ohwx"), subset("reg_woman", "woman", is_reg=True), captions={"10_ohwx": {"ohwx": 3}}),
        "ohwx"),
    # What must not be taken for one.
    "a generic token": (kohya(subset("10_woman", "woman"), captions={"10_woman": {"a": 1, "b": 1}}), None),
    "a token that no caption has": (
        kohya(subset("1_img7", "img7"), captions={"1_img7": {"a red dress": 2, "smiling": 1}}), None),
    "two people": (kohya(subset("10_anna", "anna"), subset("10_bea", "bea")), None),
    "damaged": ({"ss_datasets": '[{"subsets": [3, {"class_tokens": 7}]}, 4]', "ss_dataset_dirs": "[]"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_of_the_metadata(tmp_path: Path, name: str) -> None:
    fields, expected = METADATA[name]
    info = inspect(lora_files.write(tmp_path / "x.safetensors", TENSORS, fields))
    assert info.trigger_word == expected
    if expected:
        assert info.trigger_source is not None
        assert info.trigger_source.removeprefix("metadata ") in fields


CARD = "---\ntags:\n- flux\ninstance_prompt: a photo of OHWX woman\nbase_model: x/y\n---\n\n# anna\n"
BESIDE: dict[str, tuple[str, str]] = {
    "x.json": (json.dumps({"activation text": "OHWX Woman,"}), "OHWX Woman"),
    "x.civitai.info": (json.dumps({"trainedWords": ["OHWX Woman"], "baseModel": "Flux.1 D"}), "OHWX Woman"),
    "x.metadata.json": (json.dumps({"civitai": {"trainedWords": ["Ohwx", "red hair"]}}), "Ohwx, red hair"),
    "x.cm-info.json": (json.dumps({"TrainedWords": ["OHWX"], "BaseModel": "Flux.1 D"}), "OHWX"),
    "x.safetensors.rgthree-info.json": (
        json.dumps({"trainedWords": [{"word": "OHWX", "civitai": True}, {"word": "park", "metadata": True}]}), "OHWX"),
    "x.swarm.json": (json.dumps({"modelspec.trigger_phrase": "OHWX"}), "OHWX"),
    "README.md": (CARD, "OHWX woman"),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_of_the_files_beside_it(tmp_path: Path, name: str) -> None:
    text, expected = BESIDE[name]
    path = lora_files.write(tmp_path / "x.safetensors", TENSORS, {"modelspec.trigger_phrase": "fromfile"})
    assert inspect(path).trigger_word == "fromfile"
    (tmp_path / name).write_text(text)
    assert (inspect(path).trigger_word, inspect(path).trigger_source) == (expected, name)


def test_ours_goes_before_that_of_another_tool(tmp_path: Path) -> None:
    path = lora_files.write(tmp_path / "x.safetensors", TENSORS)
    (tmp_path / "x.civitai.info").write_text('{"trainedWords": ["theirs"]}')
    (tmp_path / "x.json").write_text('{"trigger_word": "ours"}')
    assert inspect(path).trigger_word == "ours"


@pytest.mark.parametrize("text", ["{", "[1]", '{"trainedWords": [7]}', '{"trainedWords": 3}', "", "[" * 50_000])
def test_a_malformed_file_of_another_tool_stops_nothing(tmp_path: Path, text: str) -> None:
    path = lora_files.small(tmp_path / "x.safetensors", "fromfile")
    for name in ("x.civitai.info", "x.metadata.json", "README.md", sidecar.ADAPTER_CONFIG):
        (tmp_path / name).write_text(text)
    assert inspect(path).trigger_word == "fromfile"


def test_a_model_card_is_about_the_only_lora_of_its_folder(tmp_path: Path) -> None:
    path = lora_files.write(tmp_path / "x.safetensors", TENSORS)
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "._x.safetensors").touch()
    assert inspect(path).trigger_word == "OHWX woman"
    lora_files.small(tmp_path / "other.safetensors")
    assert inspect(path).trigger_word is None


def test_onetrainers_bundled_embedding_names_it_and_is_said_not_to_be_applied(tmp_path: Path) -> None:
    bundled = TENSORS | {"bundle_emb.Anna.clip_l": np.zeros((2, 8), np.float16)}
    info = inspect(lora_files.write(tmp_path / "x.safetensors", bundled, {"ot_branch": "master"}))
    assert (info.trigger_word, info.trigger_source, info.tool) == ("Anna", "bundled embedding", "OneTrainer")
    assert any("bundle_emb" in note and "not applied" in note for note in info.notes)
