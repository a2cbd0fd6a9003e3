"""Which layers of FLUX.1's blocks multiply in 8 bits.

Names are those of the published file, below a block. The relative error of the velocity of one step with one kind of
layer in 8 bits (FLUX.1's full size, noise weights; 0.009 of it is another order of additions) spoke against none:

==============  =====  ==============  =====  =======  =====
img_attn.qkv    0.012  txt_attn.qkv    0.009  linear1  0.017
img_attn.proj   0.012  txt_attn.proj   0.009  linear2  0.017
img_mlp.0       0.016  txt_mlp.0       0.009
img_mlp.2       0.016  txt_mlp.2       0.009  all      0.028
==============  =====  ==============  =====  =======  =====

What is not named here stays as it is:

- ``img_mod.lin``, ``txt_mod.lin``, ``modulation.lin``: one row a picture, so nothing is won, and an error in a scale or
  a gate is one in every token;
- ``norm``, and all that is outside of the blocks (``img_in``, ``txt_in``, ``vector_in``, ``final_layer`` ...): hardly
  any time is spent there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TypeGuard

from torch import nn

from . import fp8

DOUBLE = (
    "img_attn.qkv",
    "img_attn.proj",
    "img_mlp.0",
    "img_mlp.2",
    "txt_attn.qkv",
    "txt_attn.proj",
    "txt_mlp.0",
    "txt_mlp.2",
)
SINGLE = ("linear1", "linear2")
KINDS = (*DOUBLE, *SINGLE)
_BEFORE = {"img_mlp.2": "img_mlp.1", "txt_mlp.2": "txt_mlp.1", "linear2": "mlp_act"}
"""The layers whose input, or its last part, comes from a GELU: where that hangs."""
_PASSING = nn.Identity()


@dataclass(frozen=True)
class Place:
    """A linear layer where it hangs: ``parent``'s child ``name``.

    Attributes:
        weight: what the file calls its weight.
        widths: of the parts of its input; () when it has but one.
        gelu: the last part comes from a GELU in its tanh form.
    """

    parent: nn.Module
    name: str
    linear: nn.Linear
    weight: str
    widths: tuple[int, ...] = ()
    gelu: bool = False

    @property
    def size(self) -> int:
        """Bytes of the layer in 8 bits."""
        return fp8.size_of(self.linear, max(1, len(self.widths)))

    def put(self, module: nn.Module) -> None:
        """Let ``module`` stand there."""
        self.parent._modules[self.name] = module


def places(double: Iterable[nn.Module], single: Iterable[nn.Module], kinds: Iterable[str] = KINDS) -> Iterator[Place]:
    """The layers of ``kinds`` in the blocks, of those that the product takes."""
    wanted = set(kinds)
    for kind, blocks, names in (("double", double, DOUBLE), ("single", single, SINGLE)):
        for number, block in enumerate(blocks):
            for name in (name for name in names if name in wanted):
                place = _place(block, name, f"{kind}_blocks.{number}.{name}.weight")
                linear = place.linear
                if fp8.fits(linear.out_features, linear.in_features) and not any(
                    width % fp8.MULTIPLE for width in place.widths
                ):
                    yield place


def gelus(*blocks: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.GELU]]:
    """Where a GELU in its tanh form hangs in the blocks: its parent, its name there, itself."""
    for block in chain.from_iterable(blocks):
        for parent in block.modules():
            for name, child in parent.named_children():
                if _is_gelu(child):
                    yield parent, name, child


def instead_of_gelu(parent: nn.Module, name: str) -> nn.Module:
    """What stands in for the GELU at ``parent``'s ``name``: one that compiles well, or none where the layer behind it
    is one in 8 bits that has it inside.
    """
    behind = parent[int(name) + 1] if isinstance(parent, nn.Sequential) else getattr(parent, "linear2", None)
    return _PASSING if isinstance(behind, fp8.Fp8Linear) and behind.gelu else fp8.GELU


def _is_gelu(module: nn.Module | None) -> TypeGuard[nn.GELU]:
    return isinstance(module, nn.GELU) and module.approximate == "tanh"


def widths_of(name: str, rows: int, columns: int) -> tuple[int, ...]:
    """The parts of the input of a block's layer ``name`` with a weight [rows, columns]; () when it has but one."""
    # Its input is what attention gives beside what the feed-forward part gives, of very different sizes.
    return (rows, columns - rows) if name == "linear2" else ()


def of_file(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """The weights of all such layers in a file of FLUX.1 and the widths of their input's parts.

    ``tensors`` are its names with dtype and shape, as in ``models.headers.Header``.
    """
    found = {}
    for name, (dtype, shape) in tensors.items():
        block, _, layer = name.removesuffix(".weight").partition("_blocks.")
        leaf = layer.partition(".")[2]
        if dtype == "BF16" and len(shape) == 2 and leaf in {"double": DOUBLE, "single": SINGLE}.get(block, ()):
            widths = widths_of(leaf, *shape) or (shape[1],)
            if fp8.fits(*shape) and all(width % fp8.MULTIPLE == 0 for width in widths):
                found[name] = widths
    return found


def _place(block: nn.Module, name: str, weight: str) -> Place:
    owner, _, leaf = name.rpartition(".")
    linear = block.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    widths = widths_of(name, linear.out_features, linear.in_features)
    gelu = name in _BEFORE and _is_gelu(block.get_submodule(_BEFORE[name]))
    return Place(block.get_submodule(owner), leaf, linear, weight, widths, gelu)
