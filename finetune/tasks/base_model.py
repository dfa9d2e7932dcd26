"""The model as it was before adapters were added."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from finetune.config.mask import MaskConfig
from finetune.tasks.base import Task
from finetune.tasks.denoising import Denoising, Masking


@contextlib.contextmanager
def adapters_off(network: nn.Module) -> Iterator[None]:
    """Use only the base layers, in evaluation mode, within the context. Afterwards everything is as before. peft's
    switch alters requires_grad of every adapter weight, also of those that a method froze."""
    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    before = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    was_training = network.training
    network.eval()
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)
        network.train(was_training)


def masked(task: Task, network: nn.Module, config: MaskConfig) -> Task:
    """Return the task with the mask's options. Raises ValueError where it cannot have a mask, or no prior."""
    if not isinstance(task, Denoising):
        raise ValueError(f"mask.kind: got {config.kind}, but this method takes whole images. Remove it.")
    if config.prior_weight > 0:
        refuse_other_than_adapters(network)
    base_model = functools.partial(adapters_off, network)
    return replace(task, masking=Masking(config.outside_weight, config.prior_weight, base_model))


def refuse_other_than_adapters(network: nn.Module) -> None:
    """Raise ValueError where switching adapters off would not give the base model."""
    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    if others := [name for name, p in network.named_parameters() if p.requires_grad and id(p) not in inside]:
        raise ValueError(
            f"mask.prior_weight: needs a method that trains adapters alone, but this one also trains {others[0]}"
            f"{f' and {len(others) - 1} others' if len(others) > 1 else ''}, whose former values are not kept. Remove "
            "mask.prior_weight."
        )
