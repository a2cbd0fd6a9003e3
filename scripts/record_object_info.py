"""Record what graphs are judged by offline: the node classes of a running ComfyUI that has this pack loaded.

    python scripts/record_object_info.py --server http://127.0.0.1:8188 [--server ...]

writes ``custom_nodes/ryla_nodes/workflows/recorded/<ComfyUI version>.json``, one class a line, canonical. Kept are
the classes of this pack and of the core modules below; of each class the types, ranges and choices. Texts are left out,
and so is every choice that is a file on that machine: such an input has no list, so any name passes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

RECORDED = Path(__file__).resolve().parents[1] / "custom_nodes/ryla_nodes/workflows/recorded"
EXTRAS = (
    "canny", "clip_sdxl", "compositing", "cond", "controlnet", "custom_sampler", "differential_diffusion",
    "edit_model", "flux", "freelunch", "images", "latent", "mask", "model_advanced", "morphology", "pag",
    "post_processing", "preview_any", "primitive", "sd3", "string", "upscale_model",
)  # fmt: skip
CORE_MODULES = ("nodes", *(f"comfy_extras.nodes_{name}" for name in EXTRAS))
CLASS_FIELDS = ("input_order", "output", "output_is_list", "output_name", "name", "python_module", "output_node")
OPTION_FIELDS = (
    "default", "min", "max", "step", "round", "options", "multiselect", "multiline", "dynamicPrompts", "forceInput",
    "control_after_generate", "image_upload", "image_folder", "socketless", "widgetType", "template", "lazy",
)  # fmt: skip
FILE_INPUTS = (
    "ckpt_name", "clip_name", "clip_name1", "clip_name2", "clip_name3", "control_net_name", "gligen_name",
    "hypernetwork_name", "image", "latent", "lora_name", "model_name", "model_path", "style_model_name", "unet_name",
    "vae_name",
)  # fmt: skip
OWN_FILE_INPUTS = ("model", "checkpoint", "adapter", "control_net")


def reduced(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded part of an ``/object_info``, classes by name."""
    kept = {name: info for name, info in sorted(object_info.items()) if name.startswith("RYLA_") or _is_core(info)}
    return {name: _reduced_class(name, info) for name, info in kept.items()}


def canonical(recorded: Mapping[str, Any]) -> str:
    """The file's text: one class a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(info, separators=(',', ':'))}" for name, info in recorded.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="append", required=True, help="base URL of a running ComfyUI (repeatable)")
    for server in parser.parse_args().server:
        with httpx.Client(base_url=server, timeout=60) as client:
            version = client.get("/system_stats").raise_for_status().json()["system"]["comfyui_version"]
            object_info = client.get("/object_info").raise_for_status().json()
        path = RECORDED / f"{version}.json"
        path.write_text(canonical(reduced(object_info)), encoding="utf-8")
        print(f"{path}: {len(reduced(object_info))} classes")


def _is_core(info: Mapping[str, Any]) -> bool:
    return info["python_module"] in CORE_MODULES and not info.get("deprecated")


def _reduced_class(name: str, info: Mapping[str, Any]) -> dict[str, Any]:
    own = name.startswith("RYLA_")
    files = OWN_FILE_INPUTS if own else FILE_INPUTS
    sections = {section: _reduced_inputs(info["input"].get(section, {}), files) for section in ("required", "optional")}
    kept = {field: info[field] for field in CLASS_FIELDS if field in info}
    order = {section: list(names) for section, names in info["input_order"].items() if section != "hidden"}
    # The folder that a pack lies in is its user's choice.
    module = "custom_nodes.ryla_nodes" if own else info["python_module"]
    return {"input": sections, **kept, "input_order": order, "python_module": module}


def _reduced_inputs(inputs: Mapping[str, Any], files: tuple[str, ...]) -> dict[str, Any]:
    return {name: _reduced_input(name, spec, files) for name, spec in inputs.items()}


def _reduced_input(name: str, spec: list[Any], files: tuple[str, ...]) -> list[Any]:
    kind = spec[0]
    options = {key: value for key, value in (spec[1] if len(spec) > 1 else {}).items() if key in OPTION_FIELDS}
    is_combo = isinstance(kind, list) or kind == "COMBO"
    if is_combo and name in files:
        options.pop("options", None)
        return ["COMBO", options]
    if kind == "COMFY_DYNAMICCOMBO_V3":
        options["options"] = [_reduced_choice(choice, files) for choice in options["options"]]
    if "template" in options and "input" in options["template"]:
        options["template"] = {**options["template"], "input": _reduced_sections(options["template"]["input"], files)}
    return [kind, options]


def _reduced_choice(choice: Mapping[str, Any], files: tuple[str, ...]) -> dict[str, Any]:
    return {"key": choice["key"], "inputs": _reduced_sections(choice["inputs"], files)}


def _reduced_sections(sections: Mapping[str, Any], files: tuple[str, ...]) -> dict[str, Any]:
    return {section: _reduced_inputs(inputs, files) for section, inputs in sections.items()}


if __name__ == "__main__":
    main()
