"""The number format of stored weights, widened when needed.

Read as they are stored, weights stay mapped to their file, and the system may take their memory back. float32 has all
numbers of bfloat16 and float16, so a later cast computes with the same numbers.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from finetune.models.interfaces import Denoiser
from finetune.models.loading.part_files import PartFiles, variant_of
from finetune.out_of_memory import explaining_out_of_memory

SIXTEEN_BITS = {"BF16": torch.bfloat16, "F16": torch.float16}


def is_narrow(value: Tensor) -> bool:
    """Recognise floating-point numbers of fewer bits than float32."""
    return value.is_floating_point() and value.itemsize < torch.float32.itemsize


def stored_dtype(files: PartFiles, part: str) -> torch.dtype:
    """Return bfloat16 or float16 for such a part, else float32."""
    paths = (files.root / part).glob("*.safetensors")
    return common_dtype((path, "") for path in paths if variant_of(path.name) == files.variant)


def common_dtype(places: Iterable[tuple[Path, str]]) -> torch.dtype:
    """Return bfloat16 or float16 if all weights are, else float32. Their names begin as given."""
    formats = set()
    for path, beginning in places:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(beginning)]  # noqa: SIM118 (not a dict)
            formats |= {file.get_slice(name).get_dtype() for name in names}
    return SIXTEEN_BITS.get(formats.pop(), torch.float32) if len(formats) == 1 else torch.float32


def with_float32_buffers(model: Denoiser) -> Denoiser:
    """Rebuild a denoiser with the same weights and float32 buffers. diffusers builds a model under the number format
    that it is loaded in, which rounds what is computed then."""
    with init_empty_weights():
        fresh = type(model).from_config(model.config)
    fresh.load_state_dict(model.state_dict(), assign=True)
    for layer in fresh.modules():
        for name, buffer in layer.named_buffers(recurse=False):
            if is_narrow(buffer):
                setattr(layer, name, buffer.float())
    return fresh.eval()


def cast_weight(value: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the weight in `dtype`. On a CPU it leaves the file that it is mapped to, as a widened one has. There, sums
    of products depend on where the numbers begin in memory, which in a file depends on its header."""
    return value.to(dtype, copy=device.type == "cpu" and is_narrow(value))


def cast_and_move(network: nn.Module, *, trained: torch.dtype, frozen: torch.dtype, device: torch.device) -> None:
    """Cast trained and frozen weights and move them to the device. An error on a full device gives advice."""
    with explaining_out_of_memory(
        "while the network was put in its number format",
        "Keep frozen weights in fewer bits (model.quantization) or in host memory (model.offload), launch with "
        "mixed_precision bf16, or train fewer weights.",
    ):
        for parameter in network.parameters():
            if parameter.is_floating_point():  # quantised weights are bytes
                dtype = trained if parameter.requires_grad else frozen
                parameter.data = cast_weight(parameter.data, dtype, device)
        network.to(device)


class Widened(nn.Module):
    """Shows a weight in float32."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.float()


@contextmanager
def readable_as_float32(module: nn.Module) -> Iterator[None]:
    """Show readers linear and convolution weights in float32. peft rounds adapters' starts to the layer's format."""
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and "weight" in dict(layer.named_parameters(recurse=False))
    ]
    layers = [layer for layer in layers if is_narrow(layer.weight)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Widened(), unsafe=True)
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
