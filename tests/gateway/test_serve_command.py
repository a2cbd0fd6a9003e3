"""``ryla serve`` as it is used: a process, the embedded engine in a second one."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import httpx
from gateway.process import ServeProcess
from PIL import Image

SHAPE = {"prompt": "a red star at the top left, navy background", "width": 256, "height": 256, "steps": 2, "seed": 7}


def _post(url: str) -> httpx.Response:
    return httpx.post(f"{url}/flux-dev", json=SHAPE, timeout=120, trust_env=False)


def _ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for whoever adopted it to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_embedded_engine_gives_a_jpeg_and_goes_on_over_a_kill(tmp_path: Path, tiny_home: Path) -> None:
    environment = {"RYLA_HOME": str(tiny_home), "OMP_NUM_THREADS": "1"}
    with ServeProcess(tmp_path / "state", ["--workflow", "flux-dev"], environment) as gateway:
        gateway.until_ready()
        answer = _post(gateway.url)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-seed"] == "7" and Image.open(io.BytesIO(answer.content)).format == "JPEG"
        record = tmp_path / "state" / "engines" / "embedded.json"
        engine = json.loads(record.read_text())
        gateway.kill()
        os.kill(engine["pid"], 0)  # It goes on, and the next gateway takes it over.
        gateway.start()
        assert json.loads(record.read_text()) == engine
        gateway.until_ready()
        again = _post(gateway.url)
        assert again.status_code == 200 and again.content == answer.content
        assert gateway.stop() == 0
    assert not record.exists() and _ended(engine["pid"])
