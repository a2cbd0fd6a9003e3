"""Reading the key names that trainers give to LoRA weights.

A key is ``<prefix><module><role>``: the prefix says which component of the pipeline and which naming scheme, the module
is a layer of it, the role is what the tensor does in the low-rank product. Sources: the writers' own code (kohya
sd-scripts, LyCORIS, PEFT/diffusers, ai-toolkit, OneTrainer, SimpleTuner, XLabs, nunchaku) and the readers in ComfyUI
(``comfy/lora.py``, ``comfy/weight_adapter``). Both engines read files by this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Tensors = Mapping[str, tuple[str, Shape]]

PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora.up.weight", ".lora.down.weight"),
    (".lora_B", ".lora_A"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
)
"""The endings of an (up, down) pair behind a module's name that ComfyUI reads, in the order in which it looks."""

_ROLES = re.compile(
    r"^(?P<module>.+?)(?:"
    r"\.lora_(?P<peft>[AB])(?:\.(?!weight$|bias$)[\w-]+)?(?:\.(?P<kind>weight|bias))?"
    r"|\.lora_(?P<kohya>down|up|mid)(?:\.weight)?"
    r"|(?:\.|_)lora\.(?P<old>down|up)\.weight"
    r"|\.lora_linear_layer\.(?P<linear>down|up)\.weight"
    r"|(?<=_lora[12])\.(?P<xlabs>down|up)\.weight"
    r"|\.(?P<named>lora_magnitude_vector|lora_E|oft_[RS]|boft_[Rs]|vera_lambda_[bd]|ia3_l|hra_u|fourierft_spectrum)(?:\.\w+)*"
    r"|\.(?P<other>alpha|dora_scale|hada_[wt]\w+|lokr_[wt]\w+|oft_blocks|oft_diag|rescale"
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
_ALGORITHMS = (
    ("hada_", "loha"),
    ("lokr_", "lokr"),
    ("oft_", "oft"),
    ("boft_", "boft"),
    ("vera_", "vera"),
    ("ia3_", "ia3"),
    ("hra_", "hra"),
    ("fourierft_", "fourierft"),
    ("set_weight", "full"),
    ("diff", "full"),
)
# Roles of whole products that ComfyUI reads; pairs are told by their endings.
_READ = ("hada_w1_a", "lokr_w1", "lokr_w1_a", "oft_blocks", "diff", "diff_b", "set_weight", "w_norm")
_GLORA = {"a1.weight", "a2.weight", "b1.weight", "b2.weight"}


@dataclass
class Module:
    """One patched layer. ``name`` is its path with "_" for "."; ``tensors`` maps a role to a shape, ``keys`` to a key.

    ``prefix`` is what the file calls it: the beginning of all its keys.
    """

    component: str
    scheme: str
    path: str
    prefix: str
    tensors: dict[str, Shape] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.replace(".", "_")

    @property
    def algorithms(self) -> set[str]:
        """LyCORIS' and PEFT's names: lora, locon (convolutions), loha, lokr, oft, boft, glora, full, norm, ia3, vera,
        hra, fourierft; dora and adalora besides."""
        found = {name for role in self.tensors for start, name in _ALGORITHMS if role.startswith(start)}
        if "down" in self.tensors or "up" in self.tensors:
            found.add("locon" if len(self.tensors.get("up", ())) == 4 or "mid" in self.tensors else "lora")
        if self.tensors.keys() >= _GLORA:
            found.add("glora")
        if "w_norm" in self.tensors:
            found.add("norm")
        if "on_input" in self.tensors:
            found.add("ia3")
        if len(self.tensors.get("oft_blocks", ())) == 4:
            found = found - {"oft"} | {"boft"}
        found |= {"dora"} if self.tensors.keys() & {"dora_scale", "lora_magnitude_vector"} else set()
        return found | ({"adalora"} if "lora_E" in self.tensors else set())

    @property
    def pair(self) -> tuple[str, str] | None:
        """The file's keys of the (up, down) matrices of a low-rank product; None when ComfyUI does not find them.

        XLabs' files are converted by ComfyUI before it looks (see ``is_whole_xlabs``).
        """
        up, down = (self.keys.get(role, "").removeprefix(self.prefix) for role in ("up", "down"))
        known = (up, down) in PAIRS or (self.scheme == "xlabs" and up and down)
        return (self.keys["up"], self.keys["down"]) if known else None

    @property
    def is_read(self) -> bool:
        """Whether ComfyUI knows the spelling of this product, whatever the layer."""
        return self.pair is not None or "glora" in self.algorithms or bool(self.tensors.keys() & set(_READ))

    @property
    def packed(self) -> bool:
        """Whether it is in nunchaku's layout: both matrices transposed, and without ".weight"."""
        return self.keys.get("down", "").endswith(".lora_down")

    @property
    def rank(self) -> int | None:
        """The inner dimension of the low-rank product; None for a full-size difference."""
        for role, axis in (("down", int(self.packed)), ("hada_w1_b", 0), ("lokr_w2_a", 1), ("lokr_w1_a", 1)):
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
                return self.tensors[out][0], self.tensors[into][0 if self.packed else 1]
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
            module.keys[_role(match)] = key
    return {prefix: module for prefix, module in found.items() if module.algorithms}


def of_weights(weights: Mapping[str, Any]) -> dict[str, Module]:
    """``modules`` of loaded tensors."""
    return modules({key: ("", tuple(tensor.shape)) for key, tensor in weights.items()})


def is_control(names: Container[str]) -> bool:
    """Whether the file is one of Black Forest Labs' control LoRAs (Canny, Depth), which widen ``img_in``."""
    return "img_in.lora_A.weight" in names and "single_blocks.0.norm.key_norm.scale" in names


def is_whole_xlabs(names: Container[str]) -> bool:
    """Whether the file is one of XLabs' (or USO's) with all blocks, the only ones that ComfyUI converts."""
    ends = ("single_blocks.37.processor.qkv_lora.up.weight", "double_blocks.18.processor.qkv_lora2.up.weight")
    return all(key in names for key in ends)


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
    return match["named"] or match["other"] or match["kohya"] or match["old"] or match["linear"] or match["xlabs"]


def _module(path: str) -> Module:
    for prefix, scheme, component in _PREFIXES:
        if path.startswith(prefix):
            rest = path[len(prefix) :]
            return Module(_component(component, rest), scheme, rest, path)
    return Module("model", "xlabs" if ".processor." in path else "bare", path, path)


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
