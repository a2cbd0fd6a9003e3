"""Run by a ComfyUI's own Python: SDXL with InstantID replayed. ``python replay_probe.py COMFYUI``; one JSON line.

A CPU stands in for the card, a tape that runs what it recorded for the CUDA graph.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path

from instantid_probe import SIZE, adapter_weights, conditioning, control_net, sample, sdxl

import torch  # isort: skip - ComfyUI's own comes first.
from ryla_nodes.engines.comfyui import instantid, noise_ahead, replay, speed
from ryla_nodes.engines.protocol import InstantIDSettings
from ryla_nodes.engines.speed import machine
from ryla_nodes.engines.speed.replay import Replays
from ryla_nodes.identity.adapter import Adapter
from ryla_nodes.identity.face_file import FaceIdentity
from torch.utils import _pytree

counts = {"recorded": 0, "replayed": 0}
refusing = False


class Tape:
    """Runs again what it recorded, and writes to the same outputs."""

    def __init__(self, run) -> None:  # type: ignore[no-untyped-def]
        self.run, self.outputs = run, run()
        counts["recorded"] += 1

    def replay(self) -> None:
        counts["replayed"] += 1
        for kept, new in zip(*map(_pytree.tree_leaves, (self.outputs, self.run())), strict=True):
            if isinstance(kept, torch.Tensor):
                kept.copy_(new)


def record(run):  # type: ignore[no-untyped-def]
    if refusing:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")
    tape = Tape(run)
    return tape, tape.outputs


def counted(picture) -> list:  # type: ignore[no-untyped-def, type-arg]
    counts.update(recorded=0, replayed=0)
    made = picture()
    return [made, counts["recorded"], counts["replayed"]]


def noise_of(name: str, plain, fast, conditions) -> list:  # type: ignore[no-untyped-def, type-arg]
    """A stochastic sampler: [the same picture, noises that it took, those that were begun before it asked]."""
    drawn: list[bool] = []
    take = noise_ahead.NoiseAhead.__call__

    def counted_take(self, *sigmas):  # type: ignore[no-untyped-def]
        drawn.append(self._next is not None and self._next[0] == tuple(map(float, sigmas)))
        return take(self, *sigmas)

    expected = sample(plain, *conditions, sampler=name)
    noise_ahead.NoiseAhead.__call__ = counted_take
    try:
        made = sample(fast, *conditions, sampler=name)
    finally:
        noise_ahead.NoiseAhead.__call__ = take
    return [bool(torch.equal(made, expected)), len(drawn), sum(drawn)]


def noise_out_of_order() -> bool:
    """Whether noise that nobody expected is what the tree gives without us."""
    sigmas, like = torch.tensor([9.0, 7.0, 4.0, 1.0, 0.0]), torch.zeros(1, 4, 8, 8)
    plain, drawn = noise_ahead._draw(sigmas, 7, like), noise_ahead._draw(sigmas, 7, like)
    with noise_ahead.NoiseAhead(drawn, sigmas) as ahead:
        asked = [(9.0, 7.0), (4.0, 1.0), (6.0, 5.0), (7.0, 4.0), (4.0, 1.0), (1.0, 0.5)]
        pairs = [tuple(map(torch.tensor, pair)) for pair in asked]
        return all(torch.allclose(ahead(*pair), plain(*pair), atol=1e-5) for pair in pairs)


def main() -> dict[str, object]:
    global refusing
    result: dict[str, object] = {}
    path = Path(tempfile.mkdtemp()) / "ip-adapter.bin"
    torch.save(adapter_weights(), path)
    generator = torch.Generator().manual_seed(5)
    face = FaceIdentity(torch.randn(1, 512, generator=generator).numpy())
    hint = torch.rand(1, SIZE, SIZE, 3, generator=generator)
    model, net, adapter = sdxl(), control_net(), Adapter(path)
    texts = conditioning(8), conditioning(9)

    def apply(*window: float, base=model, **more):  # type: ignore[no-untyped-def]
        return instantid.apply(base, *texts, net, adapter, face, InstantIDSettings(hint, 0.8, 0.7, *window, **more))

    def same(name: str, patched, conditions, expected=None) -> None:  # type: ignore[no-untyped-def]
        """Whether it paints the same replayed: [equal, recorded, replayed]."""
        plain = sample(patched, *conditions) if expected is None else expected
        made, *rest = counted(lambda: sample(speed.accelerate(patched, "exact")[0], *conditions))
        result[name] = [bool(torch.equal(made, plain)), *rest]

    told: set[str] = set()
    others = replay._others
    replay._others = lambda options: told.update(set(options) - replay._PASSED) or others(options)
    result["on_cpu"] = speed.accelerate(model, "exact")[1]
    machine.no_graphs = lambda device: None
    replay._kept[model.model] = kept = replay._Kept(Replays(recorder=record))
    patched, *conditions = apply()
    plain = sample(patched, *conditions)
    result["said"] = speed.accelerate(patched, "fast")[1]
    fast = speed.accelerate(patched, "exact")[0]
    for name in ("first", "again"):
        made, *rest = counted(lambda: sample(fast, *conditions))
        result[name] = [bool(torch.equal(made, plain)), *rest]
    same("another_node", *((made := apply())[0], made[1:]), plain)
    same("window", *((made := apply(0.0, 0.5))[0], made[1:]))
    result["noise"] = {name: noise_of(name, patched, fast, conditions) for name in ("dpmpp_2m_sde", "dpmpp_3m_sde")}
    result["noise_out_of_order"] = noise_out_of_order()
    result["noise_as_it_is"] = {name: noise_of(name, patched, fast, conditions) for name in ("dpmpp_sde", "ddpm")}
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, :, : SIZE // 2] = 1
    same("mask", *((made := apply(mask=mask))[0], made[1:]))
    same("two_people", *((made := apply(base=apply(mask=mask)[0]))[0], made[1:]))
    result["kinds_kept"] = len(kept.replays._known)

    other = patched.clone()
    other.set_model_attn2_output_patch(lambda x, options: x * 1.01)
    same("other_pack", other, conditions)
    hooked = patched.clone()
    hooked.add_wrapper_with_key("diffusion_model", "other", lambda executor, *a, **k: executor(*a, **k))
    same("other_wrapper", hooked, conditions)

    weight = model.model.diffusion_model.out[2].weight
    weight.data = weight.data * 1.5
    moved = sample(patched, *conditions)
    result["weight_matters"] = bool((moved - plain).abs().max() > 0.01)
    same("moved_weights", patched, conditions, moved)

    refusing = True
    again = apply()
    same("cannot_be_recorded", again[0], again[1:], moved)
    refusing = False
    slow = speed.accelerate(fast, "off")[0]
    result["off"] = [bool(each.get_wrappers("diffusion_model", "ryla_speed")) for each in (fast, slow)]
    partly = patched.clone()

    def unload(executor, *arguments, **options):  # type: ignore[no-untyped-def]
        model.model.model_lowvram = True
        return executor(*arguments, **options)

    partly.add_wrapper_with_key("sampler_sample", "other", unload)
    same("lowvram", partly, conditions, moved)
    model.model.model_lowvram = False
    result["let_go"] = model.model not in replay._kept
    replay._kept[model.model] = replay._Kept(Replays(recorder=record))
    fast.detach()
    result["detached"] = model.model not in replay._kept
    result["network_back"] = type(net.control_model).__name__
    result["unknown"] = sorted(told)
    return result


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    with torch.inference_mode():
        sys.stdout.write(json.dumps(main()) + "\n")
