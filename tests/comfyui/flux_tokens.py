"""Run by a ComfyUI's Python in its folder: prompts as JSON in, their weighted tokens out."""

import json
import sys

sys.path.insert(0, ".")
prompts = json.load(sys.stdin)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
sys.argv = [sys.argv[0], "--cpu"]

from comfy.text_encoders.flux import FluxTokenizer  # noqa: E402

tokenizer = FluxTokenizer()
sys.stdout.write("\n" + json.dumps([tokenizer.tokenize_with_weights(prompt) for prompt in prompts]))
