"""LoRA matching against ComfyUI's own key maps, on FLUX.1 Dev, CLIP-L and T5 of true widths (meta device).

For every layout of the tests: our node patches exactly the weights that core's loader patches, and the torch-free
reader that both engines share (``loras.keys``, ``loras.flux_modules``) expects exactly these.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import lora_files
import pytest
from comfyui.process import Install

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "custom_nodes"
LIMIT = 280
pytestmark = pytest.mark.timeout(LIMIT + 20)

DOUBLE, SINGLE = range(19), range(38)
WHOLE = [
    layer
    for layer in lora_files.flux(blocks=38)
    if not layer[0].startswith("double_blocks") or int(layer[0].split(".")[1]) in DOUBLE
]
WHOLE_DIFFUSERS = lora_files.flux_diffusers(double=DOUBLE, single=SINGLE)
T5 = [(f"encoder.block.{n}.layer.1.DenseReluDense.{name}", 10240, 4096) for n in (0, 23) for name in ("wi_0", "wi_1")]


def xlabs() -> lora_files.Tensors:
    """XLabs' layout with all blocks, which ComfyUI converts."""
    parts = [(f"{part}_lora{side}", 9216 if part == "qkv" else 3072) for part in ("qkv", "proj") for side in (1, 2)]
    layers = [(f"double_blocks.{n}.processor.{part}", out, 3072) for n in DOUBLE for part, out in parts]
    for n in SINGLE:
        layers += [(f"single_blocks.{n}.processor.qkv_lora", 9216, 3072)]
        layers += [(f"single_blocks.{n}.processor.proj_lora", 3072, 15360)]
    return lora_files.low_rank(layers, "", ".down.weight", ".up.weight", rank=1)


LAYOUTS: dict[str, lora_files.Tensors] = {
    **{name: example.tensors for name, example in lora_files.examples().items() if example.family == "flux"},
    "whole kohya": lora_files.kohya(WHOLE, rank=1),
    "whole comfyui": lora_files.peft(WHOLE, "diffusion_model.", rank=1),
    "whole diffusers": lora_files.peft(WHOLE_DIFFUSERS, rank=1),
    "whole onetrainer": lora_files.kohya(WHOLE_DIFFUSERS, "lora_transformer_", rank=1),
    "whole simpletuner": lora_files.lycoris("lokr", WHOLE_DIFFUSERS, "lycoris_"),
    "whole bare": lora_files.peft(WHOLE_DIFFUSERS, "", rank=1),
    "whole xlabs": xlabs(),
    "onetrainer with T5": lora_files.kohya(T5, "lora_te2_"),
    "comfyui with T5": lora_files.peft(T5, "text_encoders.t5xxl.transformer."),
    "peft dora": lora_files.peft(lora_files.flux_diffusers())
    | {
        f"transformer.{name}.lora_magnitude_vector": lora_files.random((out,), 1)
        for name, out, _ in lora_files.flux_diffusers()
    },
}
# Their matrices are of another size than the model's: core logs an error for each, we refuse the file.
OF_ANOTHER_SIZE = ("flux small", "flux small diffusers", "flux full")
BARE = ("flux bare peft, named adapter", "whole bare")


@pytest.fixture(scope="module")
def maps(comfyui_install: Install, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("loras")
    for name, tensors in LAYOUTS.items():
        lora_files.write(folder / f"{name}.safetensors", tensors)
    command = [comfyui_install.python, HERE / "lora_key_maps.py", comfyui_install.root, PACKAGE, folder]
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environ, timeout=LIMIT, cwd=comfyui_install.root
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def weights(found: list[list[Any]]) -> set[tuple[Any, ...]]:
    return set(map(tuple, found))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_node_patches_the_weights_that_core_patches(maps: dict[str, Any], name: str) -> None:
    told = maps[name]
    if name in OF_ANOTHER_SIZE:
        assert told["refused"] == "lora_wrong_size"
        return
    assert weights(told["ours"]) == weights(told["core"])
    assert told["counted"] == len(told["core"])


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"flux control", "flux full"}))
def test_the_reader_of_both_engines_expects_the_weights_that_core_patches(
    maps: dict[str, Any], comfyui_install: Install, name: str
) -> None:
    if name in BARE and comfyui_install.version < (0, 4):  # Learned since then.
        assert maps[name]["core"] == []
        return
    assert weights(maps[name]["read"]) == weights(maps[name]["core"])


def test_the_layouts_reach_every_module(maps: dict[str, Any]) -> None:
    assert len(maps["whole kohya"]["core"]) == len(WHOLE) == 19 * 8 + 38 * 3
    assert len(maps["whole diffusers"]["core"]) == len(WHOLE_DIFFUSERS)
    assert len(maps["whole xlabs"]["core"]) == 19 * 4 + 38 * 2
    assert len(maps["comfyui with T5"]["core"]) == len(maps["onetrainer with T5"]["core"]) == len(T5)
    assert maps["flux xlabs"]["core"] == maps["flux peft"]["core"] == []
