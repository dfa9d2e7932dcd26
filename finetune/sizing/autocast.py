"""Mixed precision and attention on torch's meta device, which has neither.

torch.autocast knows no meta tensors, and attention on them would keep the whole matrix of weights, as no device does.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

Device = Literal["cuda", "cpu"]
PRODUCTS = frozenset(
    {
        *(functional.linear, functional.conv1d, functional.conv2d, functional.conv3d, functional.conv_transpose2d),
        *(torch.matmul, torch.bmm, torch.baddbmm, torch.addmm, torch.einsum),
        *(Tensor.matmul, Tensor.bmm, Tensor.__matmul__),
    }
)
"""What autocast computes in 16 bits on every device."""
NORMS = frozenset({functional.group_norm, functional.layer_norm, functional.softmax, torch.softmax, Tensor.softmax})
"""What it computes in float32 on a GPU, and not on a CPU."""


class MetaAutocast(TorchFunctionMode):
    """Casts as torch.autocast does on a device. Attention is computed without its matrix; None casts nothing."""

    def __init__(self, dtype: torch.dtype | None, device: Device, *, keeps_weights: bool = True) -> None:
        super().__init__()
        self.dtype, self.device = dtype, device
        self.weights: dict[Tensor, Tensor] | None = {} if keeps_weights else None
        """Casts of trained weights, which torch.autocast keeps until its context ends."""

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.weights = self.weights and {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return attention(*(self.narrowed(value) for value in args), **kwargs)
        if self.dtype is not None and func in PRODUCTS:
            narrowed = {name: self.narrowed(value) for name, value in kwargs.items()}
            return func(*(self.narrowed(value) for value in args), **narrowed)
        if self.dtype is not None and self.device == "cuda" and func in NORMS:
            return func(*map(widened, args), **{name: widened(value) for name, value in kwargs.items()})
        return func(*args, **kwargs)

    def narrowed(self, value: Any) -> Any:
        """Return a float32 tensor in 16 bits. All else stays as it is."""
        if self.dtype is None or not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if self.weights is None or not (value.is_leaf and value.requires_grad):
            return value.to(self.dtype)
        if value not in self.weights:
            self.weights[value] = value.to(self.dtype)
        return self.weights[value]


def widened(value: Any) -> Any:
    """Return a tensor of 16 bits in float32. All else stays as it is."""
    is_narrow = isinstance(value, Tensor) and value.is_floating_point() and value.itemsize < torch.float32.itemsize
    return value.float() if is_narrow else value


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend with what is kept for the backward pass by flash attention. That is the inputs, the output and one number
    per row."""
    assert not enable_gqa, "no denoiser has fewer keys than queries"
    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return operation(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]


def recompute_with_casts(network: nn.Module, dtype: torch.dtype | None, device: Device) -> None:
    """Make checkpointed layers cast while they compute again. A mode of functions ends where the backward pass
    begins."""

    def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        return nullcontext(), MetaAutocast(dtype, device, keeps_weights=False)

    def checkpointed(layer: Callable[..., Any], *arguments: Any) -> Any:
        return checkpoint(layer, *arguments, use_reentrant=False, context_fn=contexts)

    for module in network.modules():
        if "_gradient_checkpointing_func" in vars(module):
            module._gradient_checkpointing_func = checkpointed  # pyright: ignore[reportArgumentType]
