"""RYLA_SaveImage's encoders beside core's SaveImage on one 1024x1024 picture: milliseconds and kilobytes.

`COMFYUI_PATH=... COMFYUI_PYTHON=... bench_save_image.py` measures core's node itself; without them only ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "custom_nodes"
RUNS = 7

INSIDE = """
import statistics, sys, tempfile, time
from pathlib import Path
comfyui, package, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.path.insert(0, package)
import torch
from ryla_nodes.nodes import image as image_file

# Smooth shapes with a little grain: about as compressible as a photo.
torch.manual_seed(0)
coarse = torch.rand(1, 3, 24, 24)
picture = torch.nn.functional.interpolate(coarse, (1024, 1024), mode="bicubic").clamp(0, 1)
picture = (picture + torch.randn_like(picture) * 0.02).clamp(0, 1).permute(0, 2, 3, 1).contiguous()
folder = Path(tempfile.mkdtemp())

def measure(name, save):
    times = []
    for run in range(runs + 1):
        began = time.perf_counter()
        path = save(run)
        times.append((time.perf_counter() - began) * 1000)
    print(f"{name:<16} {statistics.median(times[1:]):8.1f} ms  {path.stat().st_size / 1000:8.0f} kB")

def ours(kind):
    def save(run):
        path = folder / f"{kind}{run}{image_file.FORMATS[kind]}"
        image_file.write(path, image_file.encode(image_file.to_pillow(picture[0]), kind, 92, {"prompt": {}}))
        return path
    return save

if comfyui:
    sys.argv = ["main.py", "--cpu", "--output-directory", str(folder)]
    sys.path.insert(0, comfyui)
    import comfy.options
    comfy.options.enable_args_parsing()
    import folder_paths, nodes
    folder_paths.set_output_directory(str(folder))
    node = nodes.SaveImage()
    measure("core png", lambda run: folder / node.save_images(picture, "core", {}, {})["ui"]["images"][0]["filename"])
for kind in ("png", "jpeg", "webp"):
    measure(f"ours {kind}", ours(kind))
"""


def main() -> None:
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    command = [python, "-c", INSIDE, os.environ.get("COMFYUI_PATH", ""), str(PACKAGE), str(RUNS)]
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
