"""PyTorch's switches that decide what a block's kernels do: read in one process, set in another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, _cur_sdpa_kernel_backends, sdpa_kernel

Flags = dict[str, Any]

_ATTENTION = "kinds of attention"


def read() -> Flags:
    """The switches of this process by name, as JSON has them; kinds of attention in the order they are tried in."""
    matmul = torch.backends.cuda.matmul
    return {
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "float16 sums": matmul.allow_fp16_reduced_precision_reduction,
        "bfloat16 sums": matmul.allow_bf16_reduced_precision_reduction,
        "float16 accumulation": matmul.allow_fp16_accumulation,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "deterministic, or warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        _ATTENTION: [each.name for each in _cur_sdpa_kernel_backends(with_priority=True)],
    }


def facts() -> Flags:
    """The same without that order: on some GPUs PyTorch itself changes it at the first attention of a process."""
    flags = read()
    return flags | {_ATTENTION: sorted(flags[_ATTENTION])}


@contextmanager
def as_in(wanted: Flags) -> Iterator[None]:
    """Set the switches as another process had them.

    Raises:
        RuntimeError: one cannot be set here.
    """
    before = read()
    with sdpa_kernel([getattr(SDPBackend, name) for name in wanted[_ATTENTION]], set_priority=True):
        _set(wanted)
        here = read()
        try:
            for name, value in wanted.items():
                if here[name] != value:
                    raise RuntimeError(f"{name} cannot be set to {value}: it is {here[name]}")
            yield
        finally:
            _set(before)


def _set(wanted: Flags) -> None:
    """All but attention; what is as it should be is not touched, since some of them depend on others."""
    here = read()
    changed = {name for name, value in wanted.items() if here[name] != value}
    matmul = torch.backends.cuda.matmul
    if "float32 matmul precision" in changed:
        torch.set_float32_matmul_precision(wanted["float32 matmul precision"])
    if "float16 sums" in changed:
        matmul.allow_fp16_reduced_precision_reduction = wanted["float16 sums"]
    if "bfloat16 sums" in changed:
        matmul.allow_bf16_reduced_precision_reduction = wanted["bfloat16 sums"]
    if "float16 accumulation" in changed:
        matmul.allow_fp16_accumulation = wanted["float16 accumulation"]
    if changed & {"deterministic", "deterministic, or warns"}:
        torch.use_deterministic_algorithms(wanted["deterministic"], warn_only=wanted["deterministic, or warns"])
