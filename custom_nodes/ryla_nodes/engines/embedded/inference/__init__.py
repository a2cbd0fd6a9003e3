"""The torch side of the embedded engine: FLUX.1 in torch, SDXL over diffusers, with ComfyUI's files and semantics."""
