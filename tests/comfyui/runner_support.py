"""What the runner's tests need of a real ComfyUI: one to kill and restart in place, a cable to cut, graphs."""

from __future__ import annotations

import random
import select
import socket
import threading
from pathlib import Path
from typing import Any

from comfyui.process import Install
from ryla_nodes.client.comfyui_process import ComfyUIProcess

PACK = '''
import torch

class Fail:
    """Raises what ``how`` says."""
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("IMAGE",)
    oom = 0

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",), "how": (["error", "oom once", "worker"],)}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")

    def run(self, image, how):
        if how == "worker":
            raise KeyboardInterrupt("not an Exception: ComfyUI's worker does not survive it")
        if how == "error":
            raise ValueError("mat1 and mat2 shapes cannot be multiplied\\nsecond line")
        Fail.oom += 1
        if Fail.oom % 2:
            raise torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory.")
        return (image,)

NODE_CLASS_MAPPINGS = {"RunnerTestFail": Fail}
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def process(install: Install, base: Path, port: int) -> ComfyUIProcess:
    """A ComfyUI on this port with its files in ``base``; start it as often as you like."""
    for name in ("custom_nodes", "user"):
        (base / name).mkdir(exist_ok=True)
    (base / "custom_nodes" / "runner_test_fail.py").write_text(PACK)
    database = f"sqlite:///{base}/user/comfyui.db"
    arguments = ("--cpu", "--base-directory", str(base), "--database-url", database, "--disable-api-nodes")
    return ComfyUIProcess(install.root, install.python, arguments=arguments, port=port)


def quick(color: int | None = None, *, prefix: str = "quick") -> dict[str, Any]:
    """EmptyImage -> ImageInvert -> SaveImage; a color of its own unless given, so that nothing is cached."""
    color = random.randrange(1 << 24) if color is None else color
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color},
              "_meta": {"title": "Canvas"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Invert"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix},
              "_meta": {"title": "Result"}},
    }  # fmt: skip


def slow(nodes: int = 24) -> dict[str, Any]:
    """A chain of ImageScale nodes: about 0.15 s each on one core, and an interrupt is heeded between two."""
    graph = quick()
    graph["1"]["inputs"] |= {"width": 512, "height": 512, "batch_size": 2}
    source = "1"
    for number in range(nodes):
        name, size = f"s{number}", 2048 if number % 2 == 0 else 1792
        graph[name] = {"class_type": "ImageScale", "_meta": {"title": f"Scale {number}"},
                       "inputs": {"image": [source, 0], "upscale_method": "bicubic", "width": size, "height": size,
                                  "crop": "disabled"}}  # fmt: skip
        source = name
    graph["s"] = {"class_type": "ImageScale", "_meta": {"title": "Shrink"},
                  "inputs": {"image": [source, 0], "upscale_method": "area", "width": 64, "height": 64,
                             "crop": "disabled"}}  # fmt: skip
    graph["2"]["inputs"]["image"] = ["s", 0]
    return graph


class Cable:
    """A TCP proxy to a port of this machine that can be cut. Use it as a context manager."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._mute = threading.Event()

    def __enter__(self) -> Cable:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> int:
        """Reset every connection; how many there were. New ones work."""
        pairs, self._pairs = [pair for pair in self._pairs if pair[0].fileno() >= 0 and pair[1].fileno() >= 0], []
        for pair in pairs:
            for end in pair:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                end.close()
        return len(pairs)

    def mute_websockets(self) -> None:
        """From now on, let no byte of a websocket through, in either direction, without closing it."""
        self._mute.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                near.close()
                continue
            self._pairs.append((near, far))
            threading.Thread(target=self._pump, args=(near, far), daemon=True).start()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        other, websocket = {near: far, far: near}, False
        try:
            while True:
                for end in select.select([near, far], [], [], 0.5)[0]:
                    data = end.recv(65536)
                    websocket = websocket or data.startswith(b"GET /ws")
                    if not data:
                        return
                    if not (websocket and self._mute.is_set()):
                        other[end].sendall(data)
        except (OSError, ValueError):
            return
        finally:
            near.close()
            far.close()
