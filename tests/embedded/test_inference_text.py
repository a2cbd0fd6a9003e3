"""The text encoders and their tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copy2

import pytest
import sentencepiece
import small_models
import tiny_flux
import torch
from made_up import byte_level, clip_tokenizer
from ryla_nodes.engines.embedded.engine import EmbeddedEngine
from ryla_nodes.engines.embedded.inference import tokenizers
from ryla_nodes.engines.embedded.inference.text import FluxText
from ryla_nodes.engines.embedded.inference.weights import Patch
from ryla_nodes.errors import RylaError
from ryla_nodes.models.folders import ModelFolders
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.processors import TemplateProcessing


@pytest.fixture(scope="module")
def clip(tiny_home: Path) -> FluxText:
    files = tiny_flux.files(tiny_home / "models")
    assert files.clip_l and files.t5xxl
    return small_models.engine(tiny_home).load_clip(files.clip_l, files.t5xxl)


def context(clip: FluxText, prompt: str) -> torch.Tensor:
    (entry,) = clip.encode(clip.tokenize(prompt))
    return torch.as_tensor(entry[0])


def test_shapes(clip: FluxText) -> None:
    ((states, values),) = clip.encode(clip.tokenize("a cat"), guidance=2.0)
    assert states.shape == (1, 256, 128)
    assert values["pooled_output"].shape == (1, 128)
    assert values["guidance"] == 2.0
    assert states.isfinite().all() and states.std() > 0.5


def test_a_prompt_of_late_is_not_read_again_and_a_patched_encoder_keeps_its_own(tiny_home: Path) -> None:
    files = tiny_flux.files(tiny_home / "models")
    clip = small_models.engine(tiny_home).load_clip(files.clip_l, files.t5xxl)
    runs: list[int] = []
    clip.t5xxl.network.base.register_forward_hook(lambda *_: runs.append(1))
    first, _, again = (context(clip, prompt) for prompt in ("a cat", "a dog", "a cat"))
    assert torch.equal(first, again) and len(runs) == 2
    assert context(clip, "a (cat:1.3)").shape == first.shape and len(runs) == 3, "another weight is another prompt"
    for number in range(16):
        context(clip, f"number {number}")
    assert torch.equal(context(clip, "a cat"), first) and len(runs) == 20, "what is long ago is forgotten"

    assert clip.patched([], []).t5xxl is clip.t5xxl
    name, weight = next(
        (name, weight) for name, weight in clip.t5xxl.network.base.named_parameters() if name.endswith("wo.weight")
    )
    patch = Patch(name, torch.ones(weight.shape[0], 1), torch.ones(1, weight.shape[1]), 0.1, slice(0, weight.shape[0]))
    changed = clip.patched([], [patch])
    assert not torch.equal(context(changed, "a cat"), first) and torch.equal(context(clip, "a cat"), first)


def test_a_long_prompt_is_read_to_its_end(clip: FluxText) -> None:
    words = "word " * 80
    assert context(clip, words).shape[1] > 256
    assert len(clip.tokenize(words)["l"]) == 6
    one, other = context(clip, words + "cat"), context(clip, words + "dog")
    assert (one - other).abs().max() > 0.1


def test_a_weight_moves_a_state_away_from_the_empty_prompts(clip: FluxText) -> None:
    plain, empty = context(clip, "a red cat"), context(clip, "")
    half, double, none = (context(clip, f"a (red:{weight}) cat") for weight in (0.5, 2.0, 0.0))
    word = slice(2, 5)  # One token a byte.
    assert torch.allclose(double[0, word], empty[0, word] + 2 * (plain[0, word] - empty[0, word]), atol=1e-5)
    assert torch.allclose(half[0, word], empty[0, word] + 0.5 * (plain[0, word] - empty[0, word]), atol=1e-5)
    assert torch.allclose(none[0, word], empty[0, word], atol=1e-5)
    assert torch.allclose(double[0, 5:], plain[0, 5:], atol=1e-5)
    assert torch.equal(context(clip, "a (red:1.0) cat"), plain)


def test_the_pooled_vector_is_taken_at_the_first_end(clip: FluxText) -> None:
    one, other = (clip.encode(clip.tokenize(prompt))[0][1]["pooled_output"] for prompt in ("a cat", "a dog"))
    assert (one - other).abs().mean() > 0.1
    long, longer = (
        clip.encode(clip.tokenize("x" * length))[0][1]["pooled_output"] for length in (75, 120)
    )  # The first chunk is the same.
    assert torch.allclose(long, longer, atol=1e-5)


@pytest.mark.parametrize("text", ["A Red  cat", "naïve café", "日本語", "", "line\nbreak\ttab", "</s><|endoftext|>"])
def test_small_tokenizers_lose_nothing_but_case(text: str) -> None:
    t5, clip_l = tiny_flux.t5_tokenizer(), clip_tokenizer()
    ids = t5.encode(text).ids
    assert ids[-1] == 1 and min(ids) >= 0 and max(ids) < t5.get_vocab_size()
    if "</s>" not in text:
        assert t5.decode(ids) == text
        assert clip_l.decode(clip_l.encode(text).ids) == text.lower()


def test_a_tokenizer_file_beside_the_encoder_is_taken(tmp_path: Path) -> None:
    encoder = tmp_path / "x.safetensors"
    tiny_flux.t5_tokenizer().save(str(tokenizers.beside(encoder)))
    found = tokenizers.t5xxl(encoder, 258, ModelFolders({}))
    assert found.end == 1 and found.start is None
    assert found.encode("ab") == Tokenizer.from_file(str(tokenizers.beside(encoder))).encode("ab").ids[:-1]


def test_its_padding_and_truncation_do_not_count(tmp_path: Path) -> None:
    encoder = tmp_path / "x.safetensors"
    tokenizer = tiny_flux.t5_tokenizer()
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tokenizers.beside(encoder)))
    assert len(tokenizers.t5xxl(encoder, 258, ModelFolders({})).encode("abcdefgh")) == 8


@pytest.mark.parametrize(("kind", "vocabulary"), [("clip_l", 49408), ("t5xxl", 32128)])
def test_the_real_ones_are_looked_for_by_vocabulary(tmp_path: Path, kind: str, vocabulary: int) -> None:
    """In the tokenizers folder, then in the ComfyUI that owns the text_encoders folder."""
    comfyui = tmp_path / "ComfyUI"
    for name in ("main.py", "nodes.py", "comfy/x", "comfy_extras/x", "comfy_api/x"):
        (comfyui / name).parent.mkdir(parents=True, exist_ok=True)
        (comfyui / name).touch()
    folders = ModelFolders(
        {"tokenizers": (tmp_path / "tokenizers",), "text_encoders": (comfyui / "models" / "text_encoders",)}
    )
    encoder = tmp_path / "x.safetensors"
    load = getattr(tokenizers, kind)
    with pytest.raises(RylaError) as caught:
        load(encoder, vocabulary, folders)
    assert caught.value.code == "missing_tokenizer"
    assert caught.value.hint == f"ryla models install tokenizer-{kind}"
    for place in (tmp_path / "tokenizers" / kind, comfyui / "comfy"):
        assert str(place) in caught.value.message

    made = clip_tokenizer() if kind == "clip_l" else tiny_flux.t5_tokenizer()
    inside = {"clip_l": "sd1_tokenizer", "t5xxl": "text_encoders/t5_tokenizer"}[kind]
    for place in (comfyui / "comfy" / inside, tmp_path / "tokenizers" / kind):
        place.mkdir(parents=True)
        made.save(str(place / "tokenizer.json"))
        assert load(encoder, vocabulary, folders).encode("a") == made.encode("a").ids[1 if kind == "clip_l" else 0 : -1]


def _train_spiece(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    file = folder.parent / "text.txt"
    file.write_text(f"{text}\n" * 50, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(file), model_prefix=str(folder / "spiece"), vocab_size=200, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    special = '{"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}'
    (folder / "special_tokens_map.json").write_text(special)
    (folder / "tokenizer_config.json").write_text('{"extra_ids": 100, "model_max_length": 8}')


def test_a_sentencepiece_model_as_t5_brings_it(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizers" / "t5xxl"
    _train_spiece(folder, "a photo of a red cat on a blue sofa by the sea")
    loaded = tokenizers.t5xxl(tmp_path / "x.safetensors", 32128, ModelFolders({"tokenizers": (folder.parent,)}))
    expected = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    for text in ("a photo of a red cat", "sea " * 20):
        assert loaded.encode(text) == expected.encode(text)
    assert (loaded.start, loaded.end, loaded.pad) == (None, 1, 0)


@pytest.mark.parametrize(("kind", "vocabulary"), [("clip_l", 49408), ("t5xxl", 32128)])
def test_a_tokenizer_folder_that_is_not_whole_is_passed_over(tmp_path: Path, kind: str, vocabulary: int) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    for name in ("tokenizer_config.json", "vocab.json"):
        (folder / name).write_text("{}")
    with pytest.raises(RylaError, match="is missing; looked for") as caught:
        getattr(tokenizers, kind)(tmp_path / "x.safetensors", vocabulary, ModelFolders({"tokenizers": (tmp_path,)}))
    assert caught.value.code == "missing_tokenizer"


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "t5xxl").mkdir()
    (tmp_path / "t5xxl" / "spiece.model").write_text("not a model")
    with pytest.raises(RylaError, match="cannot be read") as caught:
        tokenizers.t5xxl(tmp_path / "x.safetensors", 32128, ModelFolders({"tokenizers": (tmp_path,)}))
    assert caught.value.code == "wrong_tokenizer"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_damaged_vocabulary_of_clip(tmp_path: Path, name: str) -> None:
    _clip_files(tmp_path / "clip_l")
    (tmp_path / "clip_l" / name).write_bytes(b"\xff{")
    with pytest.raises(RylaError, match="cannot be read") as caught:
        tokenizers.clip_l(tmp_path / "x.safetensors", 49408, ModelFolders({"tokenizers": (tmp_path,)}))
    assert caught.value.code == "wrong_tokenizer"


TEXTS = [
    "a photo of a red cat",
    "",
    "  two   spaces\n\ttab\u00a0x\u3000y",
    "it's they're I'VE we'll don't",
    "<|endoftext|> in </s> text <pad> <extra_id_0>",
    "naïve café ＡＢＣ ½ … ﬁne e\u0301 日本語 🐈 кот",
    "1234 5,678.90% snake_case -- !!! (a:1.2)",
    *("".join(chr(33 + 7919 * start * step % 1500) for step in range(1, 30)) for start in range(1, 60)),
]


def _clip_files(folder: Path) -> None:
    """CLIP's bytes, each alone and at the end of a word, and a few pairs of them."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["r e", "re d</w>", "c a", "ca t</w>", "i n</w>", "' s</w>"]
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *(pair.replace(" ", "") for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def test_clip_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import CLIPTokenizerFast

    _clip_files(tmp_path / "clip_l")
    theirs = CLIPTokenizerFast.from_pretrained(tmp_path / "clip_l", local_files_only=True)
    ours = tokenizers.clip_l(tmp_path / "x.safetensors", 49408, ModelFolders({"tokenizers": (tmp_path,)}))
    assert [ours.encode(text) for text in TEXTS] == [theirs(text).input_ids[1:-1] for text in TEXTS]
    assert (ours.start, ours.end) == (theirs.bos_token_id, theirs.eos_token_id)


def test_t5_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import T5TokenizerFast

    _train_spiece(tmp_path / "t5xxl", " ".join(TEXTS[:7]))
    theirs = T5TokenizerFast.from_pretrained(tmp_path / "t5xxl", local_files_only=True)
    ours = tokenizers.t5xxl(tmp_path / "x.safetensors", 32128, ModelFolders({"tokenizers": (tmp_path,)}))
    assert [ours.encode(text) for text in TEXTS] == [theirs(text).input_ids[:-1] for text in TEXTS]


def test_a_tokenizer_that_does_not_fit_its_encoder(tmp_path: Path) -> None:
    encoder = tmp_path / "x.safetensors"
    early_end = byte_level(["a", "b", "</s>"], ["</s>"])
    early_end.post_processor = TemplateProcessing(single="a $A </s>", special_tokens=[("a", 0), ("</s>", 2)])
    cases = [
        (tokenizers.clip_l, 300, tiny_flux.t5_tokenizer(), "1 tokens around a prompt, not a start and an end"),
        (tokenizers.t5xxl, 300, clip_tokenizer(), "2 tokens around a prompt, not an end"),
        (tokenizers.t5xxl, 100, tiny_flux.t5_tokenizer(), "258 tokens, the encoder 100"),
        (tokenizers.clip_l, 300, early_end, "its end is token 2"),
    ]
    for load, vocabulary, tokenizer, message in cases:
        tokenizer.save(str(tokenizers.beside(encoder)))
        with pytest.raises(RylaError, match=message) as caught:
            load(encoder, vocabulary, ModelFolders({}))
        assert caught.value.code == "wrong_tokenizer"


def test_a_small_encoder_without_its_tokenizer(tiny_home: Path, tmp_path: Path) -> None:
    files = tiny_flux.files(tiny_home / "models")
    assert files.clip_l and files.t5xxl
    alone = tmp_path / files.clip_l.name
    copy2(files.clip_l, alone)
    with pytest.raises(RylaError, match=r"258 tokens.*tiny-clip_l.tokenizer.json") as caught:
        EmbeddedEngine(tiny_home, ModelFolders({})).load_clip(alone, files.t5xxl)
    assert caught.value.code == "missing_tokenizer"
