"""Run by a ComfyUI's Python: which weights of a FLUX.1 Dev of true widths its own code patches for each LoRA file.

The models are on the meta device: names and shapes without a byte. Arguments: ComfyUI's folder, our package's parent
folder, a folder of LoRA files. Prints one JSON object: per file what core patches, what our node patches and counts,
and what the reader that both engines share expects.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COMFYUI, PACKAGE, FILES = (Path(argument) for argument in sys.argv[1:4])
sys.argv = [sys.argv[0], "--cpu"]
sys.path[:0] = [str(COMFYUI), str(PACKAGE), str(Path(__file__).resolve().parents[1])]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402
import comfy.lora_convert  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.flux  # noqa: E402
import torch  # noqa: E402
from comfyui import true_width  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

META = torch.device("meta")
CPU = torch.device("cpu")
DEPTH = (19, 38)
Target = tuple[str, int, int | None]


class Clip:
    """As much of comfy.sd.CLIP as loading a LoRA needs."""

    def __init__(self, model: Any, patcher: Any = None) -> None:
        self.cond_stage_model = model
        self.patcher = patcher or comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)

    def clone(self) -> Clip:
        return Clip(self.cond_stage_model, self.patcher.clone())

    def add_patches(self, patches: Any, strength: float = 1.0, strength_model: float = 1.0) -> Any:
        return self.patcher.add_patches(patches, strength, strength_model)


def flux() -> Any:
    """The whole transformer, detected from its weights' names and shapes as ComfyUI does it."""
    weights = {key: torch.empty(shape, device=META) for key, shape in true_width.shapes(*DEPTH).items()}
    config = comfy.model_detection.model_config_from_unet(weights, "")
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model(weights, "", device=META)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def encoders() -> Clip:
    kind = comfy.text_encoders.flux.flux_clip(dtype_t5=torch.bfloat16)
    with META:
        return Clip(kind(device=META, dtype=torch.bfloat16, model_options={}))


def targets(patched: Any) -> list[Target]:
    """The weights of a patcher's patches, with the rows where a patch is of a part."""
    found: set[Target] = set()
    for key, patches in patched.patches.items():
        for patch in patches:
            offset = patch[3]
            found.add((key, offset[1], offset[1] + offset[2]) if offset else (key, 0, None))
    return sorted(found, key=str)


def expected(weights: Mapping[str, Any], clip: Clip) -> list[Target]:
    """What the names of ``loras.flux_modules`` mean by the modules that ``loras.keys`` reads in a file."""
    from ryla_nodes.loras import flux_modules, keys

    names = list(clip.cond_stage_model.state_dict())
    places = {"diffusion_model.": flux_modules.transformer(*DEPTH, true_width.WIDTH)}
    if keys.is_whole_xlabs(weights):
        places["diffusion_model."] = {**places["diffusion_model."], **flux_modules.xlabs(*DEPTH, true_width.WIDTH)}
    places["clip_l.transformer."] = flux_modules.clip_l(linear(names, "clip_l.transformer."))
    places["t5xxl.transformer."] = flux_modules.t5xxl(linear(names, "t5xxl.transformer."))
    found: set[Target] = set()
    for name, module in keys.of_weights(weights).items():
        for prefix, known in places.items():
            if name in known and module.is_read:
                place = known[name]
                stop = true_width.WIDTH * 7 if place.stop is None and place.start else place.stop
                found.add((f"{prefix}{place.module}.weight", place.start, stop))
    return sorted(found, key=str)


def linear(names: Iterable[str], prefix: str) -> list[str]:
    return [
        name[len(prefix) : -len(".weight")] for name in names if name.startswith(prefix) and name.endswith(".weight")
    ]


def main() -> dict[str, Any]:
    from ryla_nodes.engines.comfyui import lora
    from ryla_nodes.errors import RylaError

    model, clip = flux(), encoders()
    result: dict[str, Any] = {}
    for path in sorted(FILES.glob("*.safetensors")):
        weights = load_file(path)
        patched = comfy.sd.load_lora_for_models(model, clip, weights, 1.0, 1.0)
        told: dict[str, Any] = {
            "core": [target for part in (patched[0], patched[1].patcher) for target in targets(part)],
            "read": expected(weights, clip),
        }
        try:
            ours = lora.apply(model, clip, path, 1.0, 1.0)
            told["ours"] = [target for part in (ours.model, ours.clip.patcher) for target in targets(part)]
            told["counted"] = ours.matched_model + ours.matched_clip
            told["patched"] = len(ours.model.patches) + len(ours.clip.patcher.patches)
        except RylaError as error:
            told["refused"] = error.code
        result[path.stem] = told
    return result


sys.stdout.write(json.dumps(main()) + "\n")
