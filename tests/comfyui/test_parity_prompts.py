"""Prompts become the same weighted tokens as in a real ComfyUI, with the real CLIP-L and T5 tokenizers."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from comfyui.process import Install
from ryla_nodes.engines.embedded.inference import tokenizers
from ryla_nodes.models.folders import of_comfyui

PROMPTS = [
    "",
    " ",
    "a photo of a cat",
    "A Photo, of  a   CAT!",
    "a (red:1.4) ((cat)) on [a] (a (blue:0.5) sofa)",
    r"a \(plain\) parenthesis, (b\):2) and \\(",
    "(ratio 16:9 wide) (x:) (:1.2) (y:nan) (z: 1e0 ) (((",
    "close) (b:2) )) ((c)",
    "naïve café 日本語 🐈 кот ﬁne ½",
    "line\nbreak\ttab\r\n(new\nline:1.5)",
    "<|endoftext|> <|startoftext|> </s> <pad> <extra_id_0>",
    "supercalifragilisticexpialidocious " * 30,
    "word, " * 100 + "(last one:1.3)",
    "one two three four five six seven (" + "eight nine ten " * 20 + ":0.7)",
    "don't can't it's we'll 3.14 1,000 $5 50% @home #tag a_b-c/d",
]
ALPHABET = ["(", ")", ":", "\\", " ", "1", ".5", "cat", "red", ",", "[", "é"]


def prompts() -> list[str]:
    source = random.Random(0)
    return PROMPTS + ["".join(source.choices(ALPHABET, k=source.randint(1, 40))) for _ in range(300)]


@pytest.fixture(scope="module")
def theirs(comfyui_install: Install) -> list[dict[str, list[Any]]]:
    script = Path(__file__).with_name("flux_tokens.py")
    done = subprocess.run(
        [str(comfyui_install.python), str(script)],
        cwd=comfyui_install.root,
        input=json.dumps(prompts()),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("kind", "key", "vocabulary"), [("clip_l", "l", 49408), ("t5xxl", "t5xxl", 32128)])
def test_tokens_and_weights(
    comfyui_install: Install, theirs: list[dict[str, list[Any]]], tmp_path: Path, kind: str, key: str, vocabulary: int
) -> None:
    folders = of_comfyui(comfyui_install.root)
    tokenizer = getattr(tokenizers, kind)(tmp_path / "encoder.safetensors", vocabulary, folders)
    for prompt, expected in zip(prompts(), theirs, strict=True):
        ours = [[list(pair) for pair in chunk] for chunk in tokenizer.tokenize(prompt)]
        assert [[token for token, _ in chunk] for chunk in ours] == [
            [token for token, _ in chunk] for chunk in expected[key]
        ], prompt
        assert [weight for chunk in ours for _, weight in chunk] == pytest.approx(
            [weight for chunk in expected[key] for _, weight in chunk], nan_ok=True
        ), prompt
