"""Frozen linear layers with packed weights, unpacked only to multiply.

Packed means in 4 or 8 bits, with adapters that train beside them in float32 (QLoRA, arXiv 2305.14314); or in host
memory, copied to the device for each product; or both. On the device the weights are bytes, so a cast of a module or
network leaves them alone; in host memory they are not parameters, so nothing moves, sends or saves them. Axes: O
outputs, I inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from finetune.models.interfaces import Denoiser
from finetune.models.quantized.host_memory import PinnedBlocks
from finetune.models.quantized.number_formats import Kind, pack, unpack
from finetune.models.stored import cast_weight


class PackedLinear(nn.Linear):
    """A frozen linear layer around a packed weight. `weight` unpacks it again whenever it is read."""

    def __init__(
        self,
        layer: nn.Linear,
        kind: Kind,
        *,
        double: bool,
        device: torch.device,
        dtype: torch.dtype,
        keep: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`dtype` is the one of a weight that is not quantised. `keep` puts bytes into host memory, where they wait for
        products on `device`."""
        nn.Module.__init__(self)  # that of Linear would make the weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind: Kind = kind
        self.device = device
        weight = layer.weight.detach()
        if kind == "none":
            packed = {"weight": cast_weight(weight, dtype, device)}
        else:
            packed = pack(weight.to(device, torch.float32), kind, double=double)
        self.dtypes = {name: value.dtype for name, value in packed.items()}
        loose = {name: value.view(torch.uint8) for name, value in packed.items()}
        self.waiting = {} if keep is None else {name: keep(value) for name, value in loose.items()}
        self.packed = nn.ParameterDict(
            {} if keep else {name: nn.Parameter(value, requires_grad=False) for name, value in loose.items()}
        )
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[O I] in float32; adapters read it when they are made."""
        return self.unpacked(torch.float32)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [O I]. One in host memory comes to the device again."""
        kept = {name: value.to(self.device, non_blocking=True) for name, value in self.waiting.items()}
        packed = {name: value.view(self.dtypes[name]) for name, value in (kept or self.packed).items()}
        return unpack(packed, self.kind, (self.out_features, self.in_features), dtype)

    def num_bytes(self) -> int:
        """Return the size of the packed weight."""
        return sum(value.numel() for value in (self.waiting or self.packed).values())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that Linear has)
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            return FrozenLinear.apply(input.to(torch.get_autocast_dtype(kind)), self)  # pyright: ignore[reportReturnType]
        return FrozenLinear.apply(input, self)  # pyright: ignore[reportReturnType]


class FrozenContext(Protocol):
    """The layer, kept from the forward pass for the backward pass."""

    layer: PackedLinear


class FrozenLinear(torch.autograd.Function):
    """x W^T + b with a gradient for x alone. The backward pass unpacks W again, so it is not kept."""

    @staticmethod
    def forward(ctx: FrozenContext, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return nn.functional.linear(x, layer.unpacked(x.dtype), bias)

    @staticmethod
    def backward(ctx: FrozenContext, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.unpacked(gradient.dtype), None


@dataclass(frozen=True)
class Savings:
    """The memory that packing saved."""

    num_layers: int
    bytes_before: int
    """Of those layers' weights, in the number format that they would be kept in."""
    bytes_now: int
    """The same, wherever they are kept."""

    def summary(self, kind: Kind, *, offload: bool) -> str:
        """Return the saving as a sentence."""
        size = f"{self.bytes_now / 1e9:.2f} GB"
        size += "" if kind == "none" else f" instead of {self.bytes_before / 1e9:.2f}"
        where = " in host memory, one at a time on the device" if offload else ""
        return f"{self.num_layers} frozen layers are kept{'' if kind == 'none' else f' in {kind}'}{where}: {size}."


def pack_layers(
    denoiser: Denoiser, kind: Kind, *, double: bool, device: torch.device, dtype: torch.dtype, offload: bool = False
) -> Savings:
    """Pack the linear layers of the repeated blocks.

    They end on `device`, or with `offload` in host memory; `dtype` is the one they would otherwise have. Repeated
    blocks have nearly all weights of a denoiser. The other layers, the projections in and out and the embeddings of
    timesteps, texts and sizes, stay as they are: they are small, and all inputs of the blocks pass through them.
    """
    num_layers = before = now = 0
    keep = None
    if offload:
        keep = PinnedBlocks().keep if device.type == "cuda" else Tensor.cpu
    for name, layer in list(packable_layers(denoiser)):
        packed = PackedLinear(layer, kind, double=double, device=device, dtype=dtype, keep=keep)
        parent, _, own = name.rpartition(".")
        setattr(denoiser.get_submodule(parent), own, packed)
        num_layers += 1
        before += layer.weight.numel() * dtype.itemsize
        now += packed.num_bytes()
    if num_layers == 0:
        given = "model.offload: got true" if kind == "none" else f"model.quantization: got {kind}"
        raise ValueError(f"{given}, but this denoiser has no repeated blocks with linear layers. Remove it.")
    return Savings(num_layers, before, now)


def packable_layers(denoiser: Denoiser) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the linear layers of the repeated blocks by name."""
    for name, layer in denoiser.named_modules():
        if type(layer) is nn.Linear and any(piece.isdigit() for piece in name.split(".")):
            yield name, layer


def packed_layers(network: nn.Module) -> Iterator[PackedLinear]:
    """Yield the packed layers."""
    return (module for module in network.modules() if isinstance(module, PackedLinear))


def num_frozen(network: nn.Module) -> int:
    """Count the frozen weights, packed ones by their unpacked number."""
    loose = sum(p.numel() for p in network.parameters() if not p.requires_grad and p.is_floating_point())
    return loose + sum(layer.in_features * layer.out_features for layer in packed_layers(network))
