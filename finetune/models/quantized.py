"""Frozen linear layers whose weights are kept in 4 or 8 bits and spread out only while they are multiplied with.

Adapters train beside them in float32 (QLoRA, arXiv 2305.14314). All that is kept stands as bytes, so that nothing that
casts floating-point weights, of a module or of a network, touches it. Axes: O outputs, I inputs.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["int8", "nf4", "fp8"]
Packed = dict[str, Tensor]

FLOAT8_MAX = torch.finfo(torch.float8_e4m3fn).max
NF4_BLOCK = 64
SCALE_BLOCK = 256


class QuantizedLinear(nn.Linear):
    """A frozen linear layer around a packed weight; `weight` unpacks it anew whenever it is read."""

    def __init__(self, layer: nn.Linear, kind: Kind, *, double: bool, device: torch.device) -> None:
        nn.Module.__init__(self)  # that of Linear would make the weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kind: Kind = kind
        packed = pack(layer.weight.detach().to(device, torch.float32), kind, double=double)
        self.dtypes = {name: value.dtype for name, value in packed.items()}
        self.packed = nn.ParameterDict(
            {name: nn.Parameter(value.view(torch.uint8), requires_grad=False) for name, value in packed.items()}
        )
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """[O I] in float32, what adapters ask for when they are made."""
        return self.unpacked(torch.float32)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """Returns the weight [O I]."""
        packed = {name: self.packed[name].view(self.dtypes[name]) for name in self.dtypes}
        return unpack(packed, self.kind, (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that Linear has)
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            return FrozenLinear.apply(input.to(torch.get_autocast_dtype(kind)), self)  # pyright: ignore[reportReturnType]
        return FrozenLinear.apply(input, self)  # pyright: ignore[reportReturnType]


class FrozenLinear(torch.autograd.Function):
    """x W^T + b with a gradient for x alone; the backward pass unpacks W again, so that nobody keeps it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return nn.functional.linear(x, layer.unpacked(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.unpacked(gradient.dtype), None


@dataclass(frozen=True)
class Saving:
    """What quantising changed."""

    num_layers: int
    bytes_before: int
    """Of those layers' weights, in the number format that they would be kept in."""
    bytes_now: int


def quantize(denoiser: nn.Module, kind: Kind, *, double: bool, device: torch.device, dtype: torch.dtype) -> Saving:
    """Replaces the linear layers of the repeated blocks, each on `device`; `dtype` is the one they would have.

    Repeated blocks hold nearly all weights of a denoiser. What stands once, the projections in and out and what embeds
    timesteps, texts and sizes, stays as it is: it is small, and all that the blocks see goes through it.
    """
    num_layers = before = now = 0
    for name, layer in list(denoiser.named_modules()):
        if type(layer) is not nn.Linear or not any(piece.isdigit() for piece in name.split(".")):
            continue
        packed = QuantizedLinear(layer, kind, double=double, device=device)
        parent, _, own = name.rpartition(".")
        setattr(denoiser.get_submodule(parent), own, packed)
        num_layers += 1
        before += layer.weight.numel() * dtype.itemsize
        now += sum(value.numel() for value in packed.packed.values())
    if num_layers == 0:
        raise ValueError(
            f"model.quantization: got {kind}, but this denoiser has no repeated blocks with linear layers. Remove it."
        )
    return Saving(num_layers, before, now)


def quantized_layers(network: nn.Module) -> Iterator[QuantizedLinear]:
    """Yields the packed layers."""
    return (module for module in network.modules() if isinstance(module, QuantizedLinear))


def num_frozen(network: nn.Module) -> int:
    """Returns the number of weights that are not trained, packed ones counted as what they stand for."""
    loose = sum(p.numel() for p in network.parameters() if not p.requires_grad and p.is_floating_point())
    return loose + sum(layer.in_features * layer.out_features for layer in quantized_layers(network))


def pack(weight: Tensor, kind: Kind, *, double: bool) -> Packed:
    """Returns a float32 weight [O I] as numbers of 4 or 8 bits and their scales.

    int8: W_ij = c_i q_ij, with c_i = max_j |W_ij| / 127 (vector-wise quantisation of LLM.int8, arXiv 2208.07339,
    section 2). Activations are not quantised, and need no outliers taken out. fp8: the same with e4m3 and its maximum
    448 (arXiv 2209.05433, section 3). nf4: blocks of 64 weights over their largest, rounded to the 16 quantiles of a
    normal distribution (QLoRA, arXiv 2305.14314, section 3); `double` keeps the blocks' scales in 8 bits as well.
    """
    if kind == "nf4":
        from bitsandbytes import functional

        codes, state = functional.quantize_4bit(
            weight.flatten(), blocksize=NF4_BLOCK, compress_statistics=double, quant_type="nf4"
        )
        packed = {"codes": codes, "scales": state.absmax}
        if double:
            assert state.state2 is not None and state.offset is not None
            packed |= {"scales_of_scales": state.state2.absmax, "offset": state.offset.reshape(1)}
        return packed
    largest = weight.abs().amax(1, keepdim=True)
    scales = largest.clamp(min=torch.finfo(torch.float32).tiny * 1024) / (127 if kind == "int8" else FLOAT8_MAX)
    codes = weight / scales
    codes = codes.round().to(torch.int8) if kind == "int8" else codes.to(torch.float8_e4m3fn)
    return {"codes": codes, "scales": scales}


def unpack(packed: Packed, kind: Kind, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Returns the weight [O I] that `pack` was given, up to rounding."""
    if kind != "nf4":
        return (packed["codes"].float() * packed["scales"]).to(dtype)
    from bitsandbytes import functional

    codes, scales = packed["codes"], packed["scales"]
    device, inner = codes.device, None
    if "offset" in packed:
        inner = functional.QuantState(
            absmax=packed["scales_of_scales"],
            code=scale_codes(device),
            blocksize=SCALE_BLOCK,
            dtype=torch.float32,
        )
    state = functional.QuantState(
        absmax=scales,
        shape=torch.Size([shape[0] * shape[1]]),  # on a CPU, 0.50 unpacks rows of 1.5 blocks wrongly, long vectors not
        code=nf4_codes(device),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=packed["offset"][0] if inner is not None else None,
        state2=inner,
    )
    return functional.dequantize_4bit(codes, state).reshape(shape)


@functools.cache
def nf4_codes(device: torch.device) -> Tensor:
    """Returns the 16 values of NF4 in [-1, 1] (appendix E of QLoRA)."""
    from bitsandbytes import functional

    return functional.get_4bit_type("nf4", device=device)


@functools.cache
def scale_codes(device: torch.device) -> Tensor:
    """Returns the 256 values that scales of blocks are rounded to: bitsandbytes' dynamic 8-bit numbers."""
    from bitsandbytes import functional

    return functional.create_dynamic_map().to(device)
