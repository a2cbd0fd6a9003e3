"""Looking up LoRAs in a folder of 10,000: `bench_lora.py [COUNT]`. Ends with 1 when a figure is over its budget.

Lookup of a known id p50 < 1 ms; a file added while the process runs is found, and listed, in < 50 ms.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ryla_nodes.errors import RylaError
from ryla_nodes.loras.store import LoraStore

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
LOOKUP_MS = 1.0
VISIBLE_MS = 50.0
FORMS = ("{}", "character-{}", "flux-character-{}", "character-{}.safetensors")


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def unknown(store: LoraStore, lora_id: str) -> None:
    try:
        store.find(lora_id)
    except RylaError:
        return
    raise AssertionError(f"{lora_id} was found")


def listed(store: LoraStore, folder: Path, name: str) -> None:
    (folder / f"character-{name}.safetensors").touch()
    assert any(file.id == name for file in store.list())


def found(store: LoraStore, folder: Path, name: str) -> None:
    (folder / f"character-{name}.safetensors").touch()
    store.find(name)


def show(name: str, times: list[float], budget: float | None = None) -> bool:
    middle, worst = statistics.median(times), max(times)
    over = budget is not None and middle >= budget
    limit = f"  (budget {budget:g} ms{', OVER' if over else ''})" if budget else ""
    print(f"{name:34} p50 {middle:8.3f} ms   max {worst:8.3f} ms{limit}")
    return not over


def main() -> int:
    with tempfile.TemporaryDirectory() as base:
        volume, engine = Path(base, "volume", "loras"), Path(base, "comfyui", "loras")
        for folder in (volume, engine):
            folder.mkdir(parents=True)
        for number in range(COUNT):
            (volume / f"character-{number}.safetensors").touch()
        print(f"{COUNT:,} files in the first of two folders")
        store = LoraStore([volume, engine])
        known = [FORMS[n % len(FORMS)].format(n) for n in range(0, COUNT, max(1, COUNT // 1000))]
        good = [
            show("lookup of a known id", [milliseconds(lambda i=i: store.find(i)) for i in known], LOOKUP_MS),
            show(
                "new file found",
                [milliseconds(lambda n=n: found(store, volume, f"a{n}")) for n in range(20)],
                VISIBLE_MS,
            ),
        ]
        show("first listing", [milliseconds(store.list)])
        show("listing, nothing changed", [milliseconds(store.list) for _ in range(5)])
        good.append(
            show(
                "new file listed",
                [milliseconds(lambda n=n: listed(store, volume, f"b{n}")) for n in range(10)],
                VISIBLE_MS,
            )
        )
        show("unknown id, with nearest", [milliseconds(lambda n=n: unknown(store, f"nobody{n}")) for n in range(5)])
        show(
            "unknown number, with nearest", [milliseconds(lambda n=n: unknown(store, f"{COUNT}{n}")) for n in range(5)]
        )
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
