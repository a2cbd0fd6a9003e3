"""Test-only nodes: conditioning without text encoders, fingerprints of tensors, and counts of patches."""

import hashlib

import torch


class Conditioning:
    """Random conditioning of FLUX.1's true widths."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"
    CATEGORY = "test"

    def make(self, seed):
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, 768, generator=generator)
        text = torch.randn(1, 32, 4096, generator=generator)
        return ([[text, {"pooled_output": pooled, "guidance": 3.5}]],)


class Digest:
    """The SHA-256 of a latent or picture, and how much its values vary."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"optional": {"samples": ("LATENT",), "image": ("IMAGE",)}}

    RETURN_TYPES = ()
    FUNCTION = "digest"
    OUTPUT_NODE = True
    CATEGORY = "test"

    def digest(self, samples=None, image=None):
        tensor = (samples["samples"] if image is None else image).float().contiguous().cpu()
        return {"ui": {"sha256": [hashlib.sha256(tensor.numpy().tobytes()).hexdigest()], "std": [float(tensor.std())]}}


class Patches:
    """How many patches a model and a CLIP carry, by ComfyUI's own bookkeeping."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"model": ("MODEL",)},
            "optional": {"clip": ("CLIP",), "report": ("STRING", {"forceInput": True})},
        }

    RETURN_TYPES = ()
    FUNCTION = "count"
    OUTPUT_NODE = True
    CATEGORY = "test"

    def count(self, model, clip=None, report=""):
        in_clip = 0 if clip is None else sum(map(len, clip.patcher.patches.values()))
        return {"ui": {"model": [sum(map(len, model.patches.values()))], "clip": [in_clip], "report": [report]}}


NODE_CLASS_MAPPINGS = {
    "RYLATest_Conditioning": Conditioning,
    "RYLATest_Digest": Digest,
    "RYLATest_Patches": Patches,
}
