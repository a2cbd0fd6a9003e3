"""Teach a real ComfyUI the small models' shapes, for tests only: its own loaders, encoders and VAE do all the work.

ComfyUI fixes the dimensions of CLIP-L, T5-XXL and the VAE's encoder (older ones Flux's too) and brings the tokenizers
itself. This pack gives it those of a file instead, where a ``<file>.tokenizer.json`` lies beside a text encoder. Other
files take ComfyUI's own way, untouched.
"""

from . import checkpoint, text, transformer, vae

NODE_CLASS_MAPPINGS: dict[str, type] = {}

text.install()
checkpoint.install()
transformer.install()
vae.install()
