"""The torch side of the embedded engine: diffusers' and transformers' networks with ComfyUI's files and semantics."""
