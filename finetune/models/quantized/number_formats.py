"""Pack weights to 4 or 8 bits with scales, and unpack them. Axes: O outputs, I inputs."""

import functools
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["none", "int8", "nf4", "fp8"]
Packed = dict[str, Tensor]

FLOAT8_MAX = torch.finfo(torch.float8_e4m3fn).max
NF4_BLOCK = 64
SCALE_BLOCK = 256


def pack(weight: Tensor, kind: Kind, *, double: bool) -> Packed:
    """Pack a float32 weight [O I] to 4 or 8 bits.

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
    """Return a packed weight [O I], equal up to rounding. Of kind none it is the one stored as `weight`."""
    if kind == "none":
        return packed["weight"].to(dtype)
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
    """Return NF4's 16 values in [-1, 1] (appendix E of QLoRA)."""
    from bitsandbytes import functional

    return functional.get_4bit_type("nf4", device=device)


@functools.cache
def scale_codes(device: torch.device) -> Tensor:
    """Return the 256 values of blocks' scales: bitsandbytes' dynamic 8-bit numbers."""
    from bitsandbytes import functional

    return functional.create_dynamic_map().to(device)
