"""Run by a ComfyUI's own Python: InstantID on a narrow SDXL, against the formula applied by hand. Prints one JSON line.

The UNet and the ControlNet are ComfyUI's classes with SDXL's 70-layer layout at a tenth of the width; the adapter has
its true Resampler. ``python instantid_probe.py COMFYUI [CUBIQ_PACK]``; the second argument is a checkout of the pack to
compare with. RYLA_TEST_SDXL_CHANNELS=320 is SDXL's own width: 22 GB of memory, 14 minutes.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

COMFYUI, *PEER = (Path(argument) for argument in sys.argv[1:])
sys.argv = ["main.py", "--cpu"]
sys.path[:0] = [str(COMFYUI), str(Path(__file__).resolve().parents[2] / "custom_nodes")]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cldm.cldm  # noqa: E402
import comfy.controlnet  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402

SIZE, STEPS, CFG = 192, 4, 4.0
CHANNELS, CONTEXT, ADM = int(os.environ.get("RYLA_TEST_SDXL_CHANNELS", "32")), 2048, 2816
HEAD = min(64, CHANNELS)
NARROW = 32
if CHANNELS == NARROW:
    torch.set_num_threads(1)  # Two threads that wait for each other are slow on a busy machine.
COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": CHANNELS,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "num_head_channels": HEAD,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": CONTEXT,
    "adm_in_channels": ADM,
    "num_classes": "sequential",
    "use_linear_in_transformer": True,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": torch.float32,
}


def fill(module: torch.nn.Module, seed: int) -> None:
    """Weights that keep activations near 1, zero-initialised ones too, so that every layer matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.data = torch.ones_like(parameter) if "weight" in name else torch.zeros_like(parameter)
        else:
            fan_in = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5


def sdxl() -> comfy.model_patcher.ModelPatcher:
    config = comfy.supported_models.SDXL(
        {**COMMON, "out_channels": 4, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]}
    )
    model = config.get_model({}, "")
    model.diffusion_model.eval()
    fill(model.diffusion_model, 1)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def control_net() -> comfy.controlnet.ControlNet:
    net = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.manual_cast, **COMMON).eval()
    fill(net, 2)
    return comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"))


def adapter_weights() -> dict[str, dict[str, torch.Tensor]]:
    from ryla_nodes.identity.attention import LAYERS, adapter_name

    generator = torch.Generator().manual_seed(3)

    def random(*shape: int, scale: float | None = None) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * (scale or shape[-1] ** -0.5)

    proj = {
        "latents": random(1, 16, 1280),
        "proj_in.weight": random(1280, 512),
        "proj_in.bias": random(1280, scale=0.1),
    }
    proj |= {"proj_out.weight": random(CONTEXT, 1280), "proj_out.bias": random(CONTEXT, scale=0.1)}
    proj |= {"norm_out.weight": 1 + random(CONTEXT, scale=0.1), "norm_out.bias": random(CONTEXT, scale=0.1)}
    for n in range(4):
        for norm in (f"layers.{n}.0.norm1", f"layers.{n}.0.norm2", f"layers.{n}.1.0"):
            proj |= {f"{norm}.weight": 1 + random(1280, scale=0.1), f"{norm}.bias": random(1280, scale=0.1)}
        proj |= {f"layers.{n}.0.to_q.weight": random(1280, 1280), f"layers.{n}.0.to_kv.weight": random(2560, 1280)}
        proj |= {f"layers.{n}.0.to_out.weight": random(1280, 1280), f"layers.{n}.1.1.weight": random(5120, 1280)}
        proj |= {f"layers.{n}.1.3.weight": random(1280, 5120)}
    attention = {}
    for position, key in enumerate(LAYERS):
        width = CHANNELS * (
            2 if (key.block == "input" and key.number < 7) or (key.block == "output" and key.number > 2) else 4
        )
        attention |= {adapter_name(position, part): random(width, CONTEXT) for part in "kv"}
    return {"image_proj": proj, "ip_adapter": attention}


def plain_tokens(proj: dict[str, torch.Tensor], vectors: torch.Tensor) -> torch.Tensor:
    """The Resampler once more, written as the paper says it, with the two-sided scaling of the reference code."""
    import torch.nn.functional as F

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], proj[f"{name}.weight"], proj[f"{name}.bias"])

    x = vectors @ proj["proj_in.weight"].T + proj["proj_in.bias"]
    latents = proj["latents"].repeat(len(x), 1, 1)
    for n in range(4):
        at = f"layers.{n}.0"
        own = norm(f"{at}.norm2", latents)
        both = torch.cat([norm(f"{at}.norm1", x), own], 1)
        q, kv = own @ proj[f"{at}.to_q.weight"].T, both @ proj[f"{at}.to_kv.weight"].T
        heads = []
        for h in range(20):
            part = slice(64 * h, 64 * h + 64)
            k, v = kv[..., :1280][..., part], kv[..., 1280:][..., part]
            heads.append(torch.softmax((q[..., part] * 64**-0.25) @ (k * 64**-0.25).mT, -1) @ v)
        latents = latents + torch.cat(heads, -1) @ proj[f"{at}.to_out.weight"].T
        hidden = F.gelu(norm(f"layers.{n}.1.0", latents) @ proj[f"layers.{n}.1.1.weight"].T)
        latents = latents + hidden @ proj[f"layers.{n}.1.3.weight"].T
    return norm("norm_out", latents @ proj["proj_out.weight"].T + proj["proj_out.bias"])


@contextmanager
def plain_attention(
    model: comfy.model_patcher.ModelPatcher, weights: dict, tokens: list[torch.Tensor], weight: float
) -> Iterator[None]:
    """Overwrites the 70 cross-attention modules of an SDXL, in diffusers' order: down, up, mid."""
    unet = model.model.diffusion_model
    containers = (
        [unet.input_blocks[i] for i in (4, 5, 7, 8)] + [unet.output_blocks[i] for i in range(6)] + [unet.middle_block]
    )
    modules = [t.attn2 for c in containers for m in c if hasattr(m, "transformer_blocks") for t in m.transformer_blocks]
    assert len(modules) == 70

    def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        return (torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1) @ v).transpose(1, 2).flatten(2)

    for n, module in enumerate(modules):
        to_k, to_v = (weights["ip_adapter"][f"{2 * n + 1}.to_{part}_ip.weight"] for part in "kv")

        def forward(x, context=None, value=None, mask=None, transformer_options={}, m=module, to_k=to_k, to_v=to_v):  # noqa: B006
            q, k, v = m.to_q(x), m.to_k(context), m.to_v(context)
            halves = transformer_options["cond_or_uncond"]
            identity = torch.cat([tokens[half].expand(len(x) // len(halves), -1, -1) for half in halves])
            out = softmax_attention(q, k, v, m.heads)
            return m.to_out(out + weight * softmax_attention(q, identity @ to_k.T, identity @ to_v.T, m.heads))

        module.forward = forward
    yield
    for module in modules:
        del module.forward


class PlainControlNet(comfy.controlnet.ControlNet):
    """Reads the identity tokens by the half of the batch, without ``cross_attn_controlnet``."""

    tokens: list[torch.Tensor]

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        halves = transformer_options["cond_or_uncond"]
        identity = torch.cat([self.tokens[half].expand(len(x_noisy) // len(halves), -1, -1) for half in halves])
        return super().get_control(x_noisy, t, {**cond, "c_crossattn": identity}, batched_number, transformer_options)


def conditioning(seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    text, pooled = torch.randn(1, 77, CONTEXT, generator=generator), torch.randn(1, 1280, generator=generator)
    return [
        [text, {"pooled_output": pooled, "width": SIZE, "height": SIZE, "target_width": SIZE, "target_height": SIZE}]
    ]


def sample(model, positive, negative, batch: int = 1, sampler: str = "euler") -> torch.Tensor:
    latent = torch.zeros(batch, 4, SIZE // 8, SIZE // 8)
    noise = comfy.sample.prepare_noise(latent, 7)
    return comfy.sample.sample(
        model, noise, STEPS, CFG, sampler, "normal", positive, negative, latent, disable_pbar=True, seed=7
    )


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def without_middle(model):
    clone = model.clone()
    attn2 = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    for i in range(10):
        del attn2["middle", 0, i]
    return clone


def main() -> dict[str, object]:
    from ryla_nodes.engines.comfyui import instantid
    from ryla_nodes.engines.comfyui.instantid import IdentityPatch
    from ryla_nodes.engines.protocol import InstantIDSettings
    from ryla_nodes.errors import RylaError
    from ryla_nodes.identity.adapter import Adapter
    from ryla_nodes.identity.face_file import FaceIdentity

    result: dict[str, object] = {}
    weights = adapter_weights()
    path = Path(tempfile.mkdtemp()) / "ip-adapter.bin"
    torch.save(weights, path)
    generator = torch.Generator().manual_seed(5)
    vector = torch.randn(1, 512, generator=generator)
    hint = torch.rand(1, SIZE, SIZE, 3, generator=generator)
    model, net, adapter = sdxl(), control_net(), Adapter(path)
    positive, negative = conditioning(8), conditioning(9)
    face = FaceIdentity(vector.numpy())
    settings = InstantIDSettings(hint, 0.8, 0.7)

    def apply(noise: float, settings: InstantIDSettings = settings, base=model):
        told = dataclasses.replace(settings, noise=noise)
        return instantid.apply(base, positive, negative, net, adapter, face, told)

    # Seventy of seventy.
    hits: set[tuple] = set()
    call = IdentityPatch.__call__

    def counting(self, q, k, v, extra_options):
        hits.add((*extra_options["block"], extra_options["block_index"]))
        return call(self, q, k, v, extra_options)

    IdentityPatch.__call__ = counting
    ours = sample(*apply(0.0))
    IdentityPatch.__call__ = call
    result["layers_hit"] = len(hits)
    result["base_untouched"] = "patches_replace" not in model.model_options["transformer_options"]

    # The formula by hand.
    tokens = [plain_tokens(weights["image_proj"], v[None]) for v in (vector, torch.zeros_like(vector))]
    plain_net = PlainControlNet(net.control_model, load_device=torch.device("cpu")).set_cond_hint(
        hint.movedim(-1, 1), 0.7
    )
    plain_net.tokens = tokens
    conditions = [
        [[t, {**d, "control": plain_net, "control_apply_to_uncond": False}]] for ((t, d),) in (positive, negative)
    ]
    with plain_attention(model, weights, tokens, 0.8):
        result["against_formula"] = difference(ours, sample(model, *conditions))
    result["against_no_identity"] = difference(ours, sample(model, positive, negative))
    result["middle_matters"] = difference(ours, sample(without_middle(apply(0.0)[0]), *apply(0.0)[1:]))

    # A batch of two is two of one.
    two = sample(*apply(0.0), batch=2)
    result["batch_of_two"] = difference(two[:1], ours)

    # Nothing of the adapter stays; a second run reads nothing.
    identity = adapter.identity(face, 0.0, torch.float16)
    gc.collect()
    big = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape == (5120, 1280)]
    result["adapter_tensors_resident"] = len(big) - sum(n.endswith(".1.1.weight") for n in weights["image_proj"])
    result["kv_bytes_fp16"] = identity.nbytes
    runs = adapter.runs
    apply(0.0)
    result["second_run_resampler_runs"] = adapter.runs - runs

    # Timing window, mask and weight.
    result["window_closed"] = difference(
        sample(apply(0.0, InstantIDSettings(hint, 0.8, 0.0, 0.0, 0.0))[0], positive, negative),
        sample(model, positive, negative),
    )
    mask = torch.zeros(1, SIZE, SIZE)
    result["mask_empty"] = difference(
        sample(apply(0.0, InstantIDSettings(hint, 0.8, 0.0, mask=mask))[0], positive, negative),
        sample(model, positive, negative),
    )
    full = apply(0.0, InstantIDSettings(hint, 0.8, 0.7, mask=torch.ones(1, SIZE, SIZE)))
    result["mask_full"] = difference(sample(*full), ours)

    # Half-precision attention with an adapter in single precision.
    patch = apply(0.0)[0].model_options["transformer_options"]["patches_replace"]["attn2"]["middle", 0, 0]
    q = torch.randn(2, 36, 4 * CHANNELS).half()
    heads = 4 * CHANNELS // HEAD
    options = {
        "sigmas": torch.tensor([1.0]),
        "original_shape": [2, 4, 24, 24],
        "cond_or_uncond": [0, 1],
        "n_heads": heads,
    }
    result["half_dtype"] = str(patch(q, q, q, options).dtype)

    # Chained onto another patch at the layer and at the block.
    other = model.clone()
    other.set_model_attn2_replace(lambda q, k, v, o: torch.zeros_like(q), "middle", 0)
    other.set_model_attn2_replace(lambda q, k, v, o: torch.zeros_like(q) + 1, "middle", 0, 3)
    chained = apply(0.0, base=other)[0]
    attn2 = chained.model_options["transformer_options"]["patches_replace"]["attn2"]
    q = q.float()
    alone = patch(q, q, q, options) - patch._text(q, q, q, options)
    result["chained_block"] = difference(attn2["middle", 0, 0](q, q, q, options), alone)
    result["chained_layer"] = float(
        (attn2["middle", 0, 3](q, q, q, options) - attn2["middle", 0, 3]._term(q, [0, 1], heads, (24, 24))).mean()
    )

    # Guards.
    def code(*arguments) -> str:
        try:
            instantid._require_together(*arguments)
        except RylaError as error:
            return f"{error.code}: {error}"
        return "accepted"

    flux = SimpleNamespace(model=type("Flux", (), {})(), get_model_object=lambda _: torch.nn.Linear(2, 2))
    result["flux_model"] = code(flux, net, adapter)
    sd15 = comfy.cldm.cldm.ControlNet(
        hint_channels=3,
        operations=comfy.ops.manual_cast,
        **{**COMMON, "model_channels": NARROW, "num_head_channels": NARROW, "adm_in_channels": 256},
    )
    result["wrong_control_net"] = code(model, comfy.controlnet.ControlNet(sd15), adapter)
    result["t2i_adapter"] = code(model, comfy.controlnet.ControlLora({}), adapter)
    if PEER:
        result |= against_peer(PEER[0], path, model, net, positive, negative, vector, hint, apply)
    return result


def against_peer(folder, path, model, net, positive, negative, vector, hint, apply) -> dict[str, object]:
    """cubiq's own node on the same weights, its face analysis answering with ours."""
    spec = importlib.util.spec_from_file_location(
        "peer_instantid", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["peer_instantid"] = module
    spec.loader.exec_module(module)
    nodes = module.NODE_CLASS_MAPPINGS
    folder_paths.folder_names_and_paths["instantid"] = ([str(path.parent)], {".bin"})
    adapter = nodes["InstantIDModelLoader"]().load_model("ip-adapter.bin")[0]
    photo, answers = torch.full((1, 64, 64, 3), 0.5), []

    class Faces:
        det_model = SimpleNamespace(input_size=None)

        def get(self, picture):
            answers.append(picture.shape)
            # A photo has the face; the keypoint picture has none, and is then used as it is.
            if picture.shape[0] != 64:
                return []
            return [{"bbox": [0, 0, 9, 9], "embedding": vector[0].numpy()}]

    def peer(noise: float, base=model):
        node = nodes["ApplyInstantIDAdvanced"]()
        return node.apply_instantid(
            adapter, Faces(), net, photo, base, positive, negative, 0.0, 1.0, ip_weight=0.8, cn_strength=0.7,
            noise=noise, image_kps=hint,
        )  # fmt: skip

    result: dict[str, object] = {}
    for name, noise in (("peer", 0.0), ("peer_noise", 0.35)):
        theirs = sample(*peer(noise))
        patched, *conditions = apply(noise)
        result[f"{name}_without_middle"] = difference(sample(without_middle(patched), *conditions), theirs)
        result[f"{name}_as_it_is"] = difference(sample(patched, *conditions), theirs)
    # In either order both act: theirs on ours, and ours on theirs.
    double = sample(peer(0.0, apply(0.0)[0])[0], positive, negative)
    result["peer_on_ours"] = difference(double, sample(apply(0.0)[0], positive, negative))
    return result


if __name__ == "__main__":
    with torch.inference_mode():
        sys.stdout.write(json.dumps(main()) + "\n")
