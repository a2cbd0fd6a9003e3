"""What a job cost: only said when it is known."""

from __future__ import annotations

import math
import re

from ..errors import RylaError

PRICES: dict[str, dict[str, float]] = {
    # USD a second of the GPU alone, as Modal's price page had them in January 2026.
    "modal-2026-01": {
        "T4": 0.000164,
        "L4": 0.000222,
        "A10": 0.000306,
        "L40S": 0.000542,
        "A100 40GB": 0.000556,
        "A100 80GB": 0.000694,
        "H100": 0.001097,
    },
}
_HOUR = 3600.0


def price_of(setting: str | None, gpu: str) -> float | None:
    """USD a second of ``gpu``; None when the setting gives none.

    Args:
        setting: USD an hour as a number, or a key of ``PRICES``.
        gpu: the name that the engine reports, such as ``NVIDIA H100 80GB HBM3``.

    Raises:
        RylaError: ``invalid_setting``.
    """
    if setting is None:
        return None
    if setting in PRICES:
        words = set(re.split(r"[\s\-_]+", gpu.replace("-", " ")))
        fitting = [name for name in PRICES[setting] if set(name.split()) <= words]
        return PRICES[setting][max(fitting, key=len)] if fitting else None
    try:
        an_hour = float(setting)
    except ValueError:
        an_hour = -1.0
    if not math.isfinite(an_hour) or an_hour < 0:
        known = ", ".join(PRICES)
        message = f"RYLA_GPU_USD_PER_HOUR is {setting!r}, neither a price nor a price list ({known})."
        raise RylaError("invalid_setting", message)
    return an_hour / _HOUR


def gpu_name(device: str) -> str:
    """A GPU's own name from what an engine calls it, such as ``cuda:0 NVIDIA L4 : cudaMallocAsync``."""
    return re.sub(r"^\w+:\d+\s+|\s+:\s+\w+$", "", device).strip()
