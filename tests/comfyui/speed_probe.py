"""Run by a ComfyUI's own Python: ``speed`` on a small FLUX.1 that is sampled as KSampler does it. Prints one JSON line.

A CPU stands in for the card, a backend that counts graphs for the compiler. ``python speed_probe.py COMFYUI``.
"""

from __future__ import annotations

import gc
import json
import sys
import types
from pathlib import Path

COMFYUI = Path(sys.argv[1])
sys.argv = ["main.py", "--cpu", "--use-pytorch-cross-attention"]
sys.path[:0] = [str(COMFYUI), str(Path(__file__).resolve().parents[2] / "custom_nodes")]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
import folder_paths  # noqa: E402, F401 - tells our package that it is inside ComfyUI
import torch  # noqa: E402
from comfy.ldm.flux.model import FluxParams  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from ryla_nodes.engines.comfyui import loading, patcher, speed  # noqa: E402
from ryla_nodes.engines.speed import compiler, machine  # noqa: E402

CPU, WIDTH, TEXT, RANK = torch.device("cpu"), 256, 64, 4
SHAPE = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": TEXT,
    "hidden_size": WIDTH, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 3,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
graphs: list[object] = []


def counting(graph, inputs):  # type: ignore[no-untyped-def]
    graphs.append(graph)
    return graph.forward


def fresh() -> ModelPatcher:
    later = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__annotations__ else {}
    config = comfy.supported_models.Flux(SHAPE | later)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("scale", "norm.weight")):
                value.fill_(1)
            else:
                deviation = value.shape[-1] ** -0.5 if value.ndim > 1 else 0.02
                value.copy_(torch.randn(value.shape, generator=generator) * deviation)
            value.requires_grad_(False)
    return patcher.in_place(ModelPatcher(model, CPU, CPU))


def sample(model: ModelPatcher, size: int = 8, tokens: int = 12, cfg: float = 1.0, callback=None) -> torch.Tensor:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(1, tokens, TEXT, generator=generator)
    given = [[text, {"pooled_output": torch.randn(1, 32, generator=generator), "guidance": 3.5}]]
    latent = torch.zeros(1, 16, size, size)
    noise = torch.randn(latent.shape, generator=generator)
    return comfy.sample.sample(model, noise, 2, cfg, "euler", "simple", given, given, latent, seed=1, callback=callback)


def lora(seed: int) -> dict:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(seed)
    tensors, names = {}, {}
    for layer, width, inputs in (
        ("double_blocks.0.img_attn.qkv", 3, 1), ("double_blocks.1.txt_mod.lin", 6, 1), ("single_blocks.2.linear2", 1, 5)
    ):  # fmt: skip
        tensors[f"{layer}.lora_up.weight"] = torch.randn(width * WIDTH, RANK, generator=generator) * 0.2
        tensors[f"{layer}.lora_down.weight"] = torch.randn(RANK, inputs * WIDTH, generator=generator) * 0.2
        names[layer] = f"diffusion_model.{layer}.weight"
    return comfy.lora.load_lora(tensors, names)


def with_lora(model: ModelPatcher, seed: int) -> ModelPatcher:
    clone = model.clone()
    assert len(clone.add_patches(lora(seed), 1.0)) == 3
    return clone


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def whole(model: ModelPatcher) -> bool:
    """Whether nothing of ours is left in the network."""
    network = model.model.diffusion_model
    ours = [module for module in network.modules() if type(module).__module__.startswith("ryla")]
    return not ours and not any("_compiled_call_impl" in block.__dict__ for block in speed._blocks(network))


def alive(kind: type) -> int:
    gc.collect()
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


def changes(stock: ModelPatcher) -> dict[str, object]:
    """What is left after `speed` was changed 20 times, as nodes do it, and after two sizes in turn for 50 pictures."""
    one = speed.accelerate(stock, "fast")[0]
    sample(one)
    known, layers, patchers = len(graphs), alive(speed.Fp8Linear), alive(ModelPatcher)
    for _ in range(20):
        for mode in ("exact", "fast", "off"):
            sample(speed.accelerate(stock, mode)[0])
    turns = [sample(one, size) for size in (8, 12) * 25]
    equal = all(torch.equal(made, turns[number % 2]) for number, made in enumerate(turns))
    left = [alive(speed.Fp8Linear) - layers, alive(ModelPatcher) - patchers, len(graphs) - known]
    return {"left_of_changes": left, "turns_are_equal": equal}


def refusals(stock: ModelPatcher) -> dict[str, object]:
    """What is said of models that other packs made or changed, and what those then paint."""
    network = stock.model.diffusion_model
    plain = sample(stock)
    linear, block = network.double_blocks[0].img_attn.qkv, network.single_blocks[0]
    kind = type(linear)
    linear.__class__ = type("GGMLLinear", (kind,), {"__module__": "gguf.ops"})
    said = [speed.accelerate(stock, "exact")[1]]
    linear.__class__ = kind
    weight = linear.weight

    class Packed(torch.Tensor):
        """Stands for the weight of NF4, which is a kind of its own."""

    linear.weight = torch.nn.Parameter(weight.data.as_subclass(Packed), requires_grad=False)
    said.append(speed.accelerate(stock, "fast")[1])
    linear.weight = weight
    block._compiled_call_impl = block._call_impl
    said.append(speed.accelerate(stock, "fast")[1])
    block._compiled_call_impl = None

    original, calls = block.forward, []

    def forward(self, *arguments, **options):  # type: ignore[no-untyped-def]
        calls.append(1)
        return original(*arguments, **options)

    block.forward = types.MethodType(forward, block)
    errors = [error(sample(speed.accelerate(stock, mode)[0]), plain) for mode in ("exact", "fast")]
    del block.forward
    return {"said": said, "patched_forward": [errors, len(calls)]}


def limits(stock: ModelPatcher, fast: ModelPatcher, plain: torch.Tensor) -> dict[str, object]:
    """A card of 24 GB, and an interrupt that comes while the compiler works."""
    free, total, device = management.get_free_memory, management.get_total_memory, management.get_torch_device
    management.get_free_memory = lambda device=None, torch_free_too=False: (1 << 20,) * 2 if torch_free_too else 1 << 20
    speed._kept.clear()
    small = speed.accelerate(stock, "fast")[0]
    told = [bool(torch.equal(sample(small), plain)), len(speed._kept[stock.model].modules)]
    management.get_free_memory = free
    found = [bool(torch.equal(sample(small), sample(fast)))]

    class Card:
        suffix, size = ".safetensors", 24 << 30

        def stat(self):  # type: ignore[no-untyped-def]
            return types.SimpleNamespace(st_size=self.size)

    management.get_total_memory = lambda device=None: 24 << 30
    loading._places_whole_models, loading._is_readable = lambda device: True, lambda path: True
    found.append(loading.card_for(Card()) is None)  # type: ignore[arg-type]
    management.get_total_memory, management.get_torch_device = total, device

    compile_ = torch.compile

    def stopped(graph, inputs):  # type: ignore[no-untyped-def]
        management.interrupt_current_processing(True)
        return graph.forward

    torch.compile = lambda function: COMPILE(function, backend=stopped)
    compiler._compiled.cache_clear()
    torch._dynamo.reset()
    exact, told_of = speed.accelerate(stock, "exact")[0], False
    try:
        sample(exact, callback=lambda *_: management.throw_exception_if_processing_interrupted())
    except management.InterruptProcessingException:
        told_of = whole(exact)
    management.interrupt_current_processing(False)
    torch.compile = compile_
    compiler._compiled.cache_clear()
    torch._dynamo.reset()
    return {"small_card": [*told, *found], "interrupted_compile": [told_of, error(sample(exact), plain)]}


COMPILE = torch.compile


def main() -> None:
    patcher.on_card = lambda device: True
    management.get_free_memory = lambda device=None, torch_free_too=False: (1 << 40,) * 2 if torch_free_too else 1 << 40
    stock = fresh()
    plain = sample(stock)
    result: dict[str, object] = {}
    result["refused"] = speed.accelerate(stock, "fast")[1]
    result["refused_is_same"] = speed.accelerate(stock, "fast")[0] is stock
    machine.refusal = lambda mode, device: None
    compiler._compiled.cache_clear()
    compile_ = torch.compile
    torch.compile = lambda function: compile_(function, backend=counting)

    exact, result["said_exact"] = speed.accelerate(stock, "exact")
    fast, result["said_fast"] = speed.accelerate(stock, "fast")
    result["exact"] = error(sample(exact), plain)
    result["graphs_exact"] = len(graphs)
    result["fast"] = error(sample(fast), plain)
    result["graphs_fast"] = len(graphs)
    made = sample(fast)
    result["clone"] = bool(torch.equal(sample(fast.clone()), made))
    result["again"] = bool(torch.equal(sample(fast), made))
    known = len(graphs)
    for size, tokens in ((12, 12), (10, 20), (8, 30), (16, 12)):
        for model in (exact, fast):
            sample(model, size, tokens)
    result["graphs_of_sizes"] = len(graphs) - known
    result["untouched"] = bool(torch.equal(sample(stock), plain)) and whole(stock)

    one, two = (sample(with_lora(stock, seed)) for seed in (1, 2))
    result["lora_after"] = [error(sample(with_lora(fast, 1)), one), error(sample(with_lora(fast, 2)), two)]
    result["lora_effect"] = error(one, plain)
    before = speed.accelerate(with_lora(stock, 1), "fast")[0]
    result["lora_order"] = bool(torch.equal(sample(before), sample(with_lora(fast, 1))))
    result["back"] = bool(torch.equal(sample(fast), made))
    result["exact_lora"] = error(sample(with_lora(exact, 1)), one)
    for _ in range(20):
        for model in (exact, fast, stock):
            sample(model)
    result["kept"] = len(speed._kept)
    result["graphs_in_the_end"] = len(graphs) - known

    known = len(graphs)
    result["cfg"] = error(sample(exact, cfg=3.0), sample(stock, cfg=3.0))
    result["graphs_of_batches"] = len(graphs) - known
    calls: list[int] = []

    def replaced(arguments, extra):  # type: ignore[no-untyped-def]
        calls.append(1)
        return extra["original_block"](arguments)

    hooked = exact.clone()
    hooked.set_model_patch_replace(replaced, "dit", "double_block", 0)
    result["replacement"] = [error(sample(hooked), plain), len(calls)]

    overridden = fast.clone()
    seen: list[int] = []

    def attention(function, *arguments, **options):  # type: ignore[no-untyped-def]
        seen.append(1)
        return function(*arguments, **options)

    overridden.model_options["transformer_options"]["optimized_attention_override"] = attention
    result["override"] = [error(sample(overridden), plain), len(seen)]

    def stop(*_):  # type: ignore[no-untyped-def]
        raise management.InterruptProcessingException

    try:
        sample(fast, callback=stop)
    except management.InterruptProcessingException:
        result["interrupted"] = whole(fast)

    result |= refusals(stock) | limits(stock, fast, plain) | changes(stock)
    stock.model.model_lowvram = True
    base = speed._hindrance(stock.model)
    stock.model.model_lowvram = False
    result["lowvram"] = [base, len(speed._kept)]
    sample(fast)
    management.unload_all_models()
    result["unloaded"] = len(speed._kept)
    result["after_unload"] = error(sample(fast), made)
    result["off"] = speed.accelerate(fast, "off")[0].get_wrappers("apply_model", "ryla_speed")
    network = stock.model.diffusion_model
    network.single_blocks[0].linear1.weight.data = network.single_blocks[0].linear1.weight.data.to(torch.float8_e4m3fn)
    result["quantised"] = speed.accelerate(stock, "exact")[1]
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
