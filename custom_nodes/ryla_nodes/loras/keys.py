"""Reading the key names that trainers give to LoRA weights.

A key is ``<prefix><module><role>``: the prefix says which component of the pipeline and which naming scheme, the module
is a layer of it, the role is what the tensor does in the low-rank product. Sources: the writers' own code (kohya
sd-scripts, LyCORIS, PEFT/diffusers, ai-toolkit, OneTrainer, SimpleTuner, XLabs) and the reader in ComfyUI
(``comfy/lora.py``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
Tensors = Mapping[str, tuple[str, Shape]]

_ROLES = re.compile(
    r"^(?P<module>.+?)(?:"
    r"\.lora_(?P<peft>[AB])(?:\.(?!weight$|bias$)[\w-]+)?(?:\.(?P<kind>weight|bias))?"
    r"|\.lora_(?P<kohya>down|up|mid)(?:\.weight)?"
    r"|(?:\.|_)lora\.(?P<old>down|up)\.weight"
    r"|\.lora_linear_layer\.(?P<linear>down|up)\.weight"
    r"|(?<=_lora[12])\.(?P<xlabs>down|up)\.weight"
    r"|\.(?P<other>alpha|dora_scale|lora_magnitude_vector(?:\.\w+)*|hada_[wt]\w+|lokr_[wt]\w+|oft_blocks|oft_diag|rescale"
    r"|[ab][12]\.weight|diff|diff_b|set_weight|w_norm|b_norm|on_input|reshape_weight)"
    r")$"
)
_PREFIXES = (  # (prefix, scheme, component); the component of a text encoder is told by its modules.
    ("lora_unet__", "kohya", "model"),
    ("lora_unet_", "kohya", "model"),
    ("lora_te1_", "kohya", "te1"),
    ("lora_te2_", "kohya", "te2"),
    ("lora_te3_", "kohya", "te3"),
    ("lora_te_", "kohya", "te1"),
    ("lora_transformer_", "onetrainer", "model"),
    ("lycoris_", "simpletuner", "model"),
    ("base_model.model.", "peft", "model"),
    ("text_encoders.", "comfyui", "te"),
    ("text_encoder_3.", "diffusers", "te3"),
    ("text_encoder_2.", "diffusers", "te2"),
    ("text_encoder.", "diffusers", "te1"),
    ("transformer.", "diffusers", "model"),
    ("unet.", "diffusers", "model"),
    ("diffusion_model.", "comfyui", "model"),
)
_ALGORITHMS = (("hada_", "loha"), ("lokr_", "lokr"), ("oft_", "oft"), ("set_weight", "full"), ("diff", "full"))
_GLORA = {"a1.weight", "a2.weight", "b1.weight", "b2.weight"}


@dataclass
class Module:
    """One patched layer. ``name`` is its path with "_" for "."; ``tensors`` maps a role to a shape."""

    component: str
    scheme: str
    path: str
    tensors: dict[str, Shape]

    @property
    def name(self) -> str:
        return self.path.replace(".", "_")

    @property
    def algorithms(self) -> set[str]:
        """LyCORIS' names: lora, locon (convolutions), loha, lokr, oft, glora, full, norm, ia3; and dora besides."""
        found = {name for role in self.tensors for start, name in _ALGORITHMS if role.startswith(start)}
        if "down" in self.tensors or "up" in self.tensors:
            found.add("locon" if len(self.tensors.get("up", ())) == 4 or "mid" in self.tensors else "lora")
        if self.tensors.keys() >= _GLORA:
            found.add("glora")
        if "w_norm" in self.tensors:
            found.add("norm")
        if "on_input" in self.tensors:
            found.add("ia3")
        return found | ({"dora"} if "dora_scale" in self.tensors else set())

    @property
    def rank(self) -> int | None:
        """The inner dimension of the low-rank product; None for a full-size difference."""
        for role, axis in (("down", 0), ("hada_w1_b", 0), ("lokr_w2_a", 1), ("lokr_w1_a", 1)):
            if len(self.tensors.get(role, ())) > axis:
                return self.tensors[role][axis]
        # GLoRA's two writers transpose each other's matrices.
        return min(self.tensors["b1.weight"], default=None) if "glora" in self.algorithms else None

    @property
    def width(self) -> tuple[int, int] | None:
        """``(out_features, in_features)`` of the patched layer, where the tensors tell."""
        for out, into in (("up", "down"), ("hada_w1_a", "hada_w1_b")):
            if (
                out in self.tensors
                and into in self.tensors
                and min(map(len, (self.tensors[out], self.tensors[into]))) > 1
            ):
                return self.tensors[out][0], self.tensors[into][1]
        left, right = self._factor("lokr_w1"), self._factor("lokr_w2")
        if left and right:
            return left[0] * right[0], left[1] * right[1]
        full = self.tensors.get("diff", self.tensors.get("set_weight", ()))
        return (full[0], full[1]) if len(full) > 1 else None

    @property
    def elements(self) -> int | None:
        """How many elements the patched weight has by these tensors; None for kinds whose tensors do not tell."""
        if self.tensors.keys() & {"mid", "hada_t1", "lokr_t2", "reshape_weight"}:
            return None
        for out, into in (("up", "down"), ("hada_w1_a", "hada_w1_b")):
            if self.tensors.get(out) and self.tensors.get(into):
                return _product(self.tensors[out], self.tensors[into])
        left, right = self._factor_elements("lokr_w1"), self._factor_elements("lokr_w2")
        if left and right:
            return left * right
        full = self.tensors.get("diff", self.tensors.get("set_weight"))
        return None if full is None else math.prod(full)

    def _factor_elements(self, role: str) -> int | None:
        whole, left, right = (self.tensors.get(f"{role}{part}", ()) for part in ("", "_a", "_b"))
        return math.prod(whole) if whole else _product(left, right) if left and right else None

    def _factor(self, role: str) -> tuple[int, int] | None:
        whole, left, right = (self.tensors.get(f"{role}{part}", ()) for part in ("", "_a", "_b"))
        if len(whole) > 1:
            return whole[0], whole[1]
        return (left[0], right[1]) if len(left) > 1 and len(right) > 1 else None


def modules(tensors: Tensors) -> dict[str, Module]:
    """The layers that a file patches, by the name that it gives them, in its order; {} when it holds no LoRA."""
    found: dict[str, Module] = {}
    for key, (_, shape) in tensors.items():
        match = _ROLES.match(key)
        if match is not None:
            prefix = match["module"]
            module = found.setdefault(prefix, _module(prefix))
            module.tensors[_role(match)] = shape
    return {prefix: module for prefix, module in found.items() if module.algorithms}


def is_control(tensors: Tensors) -> bool:
    """Whether the file is one of Black Forest Labs' control LoRAs (Canny, Depth), which widen ``img_in``."""
    return "img_in.lora_A.weight" in tensors and "single_blocks.0.norm.key_norm.scale" in tensors


def patterns(found: Iterable[Module]) -> tuple[str, ...]:
    """The kinds of layers patched, block numbers written as ``*``."""
    return tuple(sorted({_BLOCK.sub(r"\1\2*", module.path) for module in found}))


def _product(left: Shape, right: Shape) -> int:
    """Elements of ``left @ right``, all but the first dimension flattened."""
    return left[0] * math.prod(right[1:])


_BLOCK = re.compile(r"(blocks?|layers?|attentions|resnets|refiner|samplers)([._])\d+(?=[._]|$)")


def _role(match: re.Match[str]) -> str:
    if match["peft"]:
        bias = "_bias" if match["kind"] == "bias" else ""
        return {"A": "down", "B": "up"}[match["peft"]] + bias
    if match["other"]:
        return "dora_scale" if match["other"].startswith("lora_magnitude_vector") else match["other"]
    return match["kohya"] or match["old"] or match["linear"] or match["xlabs"]


def _module(path: str) -> Module:
    for prefix, scheme, component in _PREFIXES:
        if path.startswith(prefix):
            path = path[len(prefix) :]
            return Module(_component(component, path), scheme, path, {})
    xlabs = ".processor." in path
    return Module("model", "xlabs" if xlabs else "bare", path, {})


def _component(component: str, path: str) -> str:
    if not component.startswith("te"):
        return component
    if path.startswith(("clip_l", "clip_g", "t5xxl")):
        return path.split(".")[0]
    if path.startswith(("encoder_block", "encoder.block")):
        return "t5xxl"
    if path.startswith(("text_model", "text_projection")):
        return {"te1": "clip_l", "te2": "clip_g"}.get(component, "text_encoder")
    return "text_encoder"
