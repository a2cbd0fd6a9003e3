"""The small SDXL's calls of several jobs as one batch: a picture alone leaves most of a GPU idle."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import torch
from ryla_nodes.engines.embedded.inference.sdxl_model import (
    ActiveIdentity,
    Control,
    SdxlModel,
    active_controls,
    added,
    residuals,
)
from ryla_nodes.identity.attention import COND, IdentityTerm, LayerKV
from torch import Tensor

_QUIET = 0.004
"""Seconds without a further call after which a batch begins."""


@dataclass
class Call:
    """One call of the network, of one picture: ``SdxlModel.denoise``'s arguments, and what comes of it."""

    model: SdxlModel
    x: Tensor
    sigma: Tensor
    conditioning: Any
    negative: bool
    done: threading.Event = field(default_factory=threading.Event)
    result: Tensor | None = None
    error: Exception | None = None

    @cached_property
    def controls(self) -> list[Control]:
        """The ControlNets that act now."""
        return active_controls(self.conditioning[0][1], self.sigma)

    @cached_property
    def identities(self) -> list[Sequence[IdentityTerm]]:
        """The terms of each identity that acts now."""
        return [applied.terms for applied in self.model.identities if applied.window.contains(self.sigma)]


class Together:
    """Gathers the calls of up to ``most`` threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: list[Call] = []
        self._lock, self._gate = threading.Lock(), threading.Lock()

    def denoise(self, call: Call) -> Tensor:
        """What ``SdxlModel.denoise`` gives."""
        with self._lock:
            self._waiting.append(call)
            leads = len(self._waiting) == 1
        if leads:
            with self._gate:
                self._run(self._gathered())
        call.done.wait()
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _gathered(self) -> list[Call]:
        seen = 0
        while seen < len(self._waiting) and len(self._waiting) < self._most:
            seen = len(self._waiting)
            time.sleep(_QUIET)
        with self._lock:
            calls, self._waiting = self._waiting, []
        return calls

    def _run(self, calls: list[Call]) -> None:
        try:
            for alike in _alike(calls):
                for call, result in zip(alike, _denoised(alike).split(1), strict=True):
                    call.result = result
        except Exception as error:  # noqa: BLE001 - each job that waits for it has to end with it
            for call in calls:
                call.error = error
        for call in calls:
            call.done.set()


@dataclass(frozen=True)
class GatheredModel(SdxlModel):
    """A MODEL whose calls go through ``together``."""

    together: Together | None = None

    @classmethod
    def of(cls, model: SdxlModel, together: Together) -> GatheredModel:
        return cls(**{each.name: getattr(model, each.name) for each in fields(SdxlModel)}, together=together)

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Any, negative: bool) -> Tensor:
        assert self.together is not None and len(x) == 1
        return self.together.denoise(Call(self, x, sigma, conditioning, negative))


def _alike(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls that one batch can hold, in groups."""
    groups: dict[tuple[Any, ...], list[Call]] = defaultdict(list)
    for call in calls:
        masked = tuple(terms[0]._mask is not None for terms in call.identities)
        strengths = tuple(control.strength for control in call.controls)
        groups[(call.x.shape, call.conditioning[0][0].shape, strengths, masked)].append(call)
    return list(groups.values())


def _denoised(calls: Sequence[Call]) -> Tensor:
    """``SdxlModel.denoise`` of all ``calls``: (B, 4, h, w)."""
    model = calls[0].model
    x = torch.cat([call.x for call in calls])
    sigma = torch.stack([call.sigma for call in calls]).view(-1, 1, 1, 1)
    scaled = (x / (sigma**2 + 1).sqrt()).to(model.device, model.placement.dtype)
    pooled = torch.cat([call.conditioning[0][1]["pooled_output"] for call in calls])
    arguments: dict[str, Any] = {
        "timestep": torch.stack([model.sampling.time(call.sigma) for call in calls]).to(model.device),
        "encoder_hidden_states": torch.cat([call.conditioning[0][0] for call in calls]).to(scaled),
        "added_cond_kwargs": added({"pooled_output": pooled}, scaled),
    }
    nets = [_stacked_nets(same, calls, scaled) for same in zip(*(call.controls for call in calls), strict=True)]
    terms = _identities(calls, scaled)
    if terms:
        arguments["cross_attention_kwargs"] = {"identity": ActiveIdentity(terms, COND, (x.shape[-2], x.shape[-1]))}
    arguments |= residuals(nets, scaled, arguments)
    noise = model.network.module(scaled, **arguments, return_dict=False)[0]
    return x - noise.float() * sigma


def _stacked_nets(same: Sequence[Control], calls: Sequence[Call], like: Tensor) -> tuple[Control, Tensor, Tensor]:
    """A ControlNet that all calls have, with their tokens and the features of their hints."""
    tokens = torch.cat([call.conditioning[0][1]["cross_attn_controlnet"] for call in calls])
    return same[0], tokens.to(like), torch.cat([each.features(like[:1]) for each in same])


def _identities(calls: Sequence[Call], like: Tensor) -> list[list[IdentityTerm]]:
    """The identities of all calls, each layer's terms stacked: a picture takes its side of the guidance."""
    merged = []
    for people in zip(*(call.identities for call in calls), strict=True):
        layers = zip(*people, strict=True)
        merged.append([_stacked(terms, [call.negative for call in calls], like) for terms in layers])
    return merged


def _stacked(terms: Sequence[IdentityTerm], negative: Sequence[bool], like: Tensor) -> IdentityTerm:
    for term in terms:
        if term._kv.cond_k.device != like.device or term._kv.cond_k.dtype != like.dtype:
            term._kv = term._kv.to(like.device, like.dtype)
    sides = zip(terms, negative, strict=True)
    chosen = [(t._kv.uncond_k, t._kv.uncond_v) if no else (t._kv.cond_k, t._kv.cond_v) for t, no in sides]
    k, v = (torch.cat(parts) for parts in zip(*chosen, strict=True))
    weight: Any = torch.tensor([term._weight for term in terms], device=like.device, dtype=like.dtype).view(-1, 1, 1)
    masks = [term._mask for term in terms if term._mask is not None]
    return IdentityTerm(LayerKV(k, v, k, v), weight, torch.cat(masks) if masks else None)
