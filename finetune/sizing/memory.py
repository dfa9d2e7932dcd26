"""Bytes that a run needs on its device and in host memory."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from finetune.batches.encoder import images_together
from finetune.config.train import TrainConfig
from finetune.methods.base import TuningMethod
from finetune.models.blocks import sharded_blocks
from finetune.models.family import AutoencoderNetwork
from finetune.processes.sharding_request import Sharding
from finetune.sizing.model import SizedModel
from finetune.sizing.optimizer_state import state_bytes
from finetune.sizing.packing import Packing, packing
from finetune.sizing.parts import Held, in_parts, num_bytes
from finetune.sizing.step import (
    Precision,
    StepBytes,
    built_network,
    condition,
    denoising_step,
    encoding_bytes,
    latent_shape,
)

FLOAT32 = 4
ROUNDED_UPDATE = 20
"""Bytes per element of the largest weight while an update is rounded to bfloat16 (benchmarks/full_memory.py)."""
Size = tuple[int, int]
"""Width and height of images."""
Counts = tuple[int, int]
"""Numbers of trained and of frozen parameters."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a run on each process, beyond the empty one's."""

    num_trained: int
    """Parameters of the network, one that is used twice counted once."""
    num_frozen: int
    weights: int
    """Of the network, in the formats that they are trained or frozen in."""
    optimizer: int
    average: int
    gradients: int
    """All together at the end of a backward pass."""
    passes: int
    """Activations and gradients at the worst moment of a step."""
    others: int
    """VAE and text encoders, where they are not cached."""
    images: int
    """While images are encoded to latents, for the caches or in a step."""
    captions: int
    """While captions are encoded."""
    host: int
    """Host memory of each process at the worst moment: weights that are read, kept or exported."""

    @property
    def training(self) -> int:
        """Bytes on the device in training."""
        return self.weights + self.optimizer + self.average + self.others + self.passes

    @property
    def most(self) -> int:
        """Bytes on the device at the worst moment of the run."""
        return max(self.training, self.images, self.captions)


class MemoryEstimator:
    """Estimates for one model and size of images. Steps that several configs share run once."""

    def __init__(
        self,
        model: SizedModel,
        method: Callable[[TrainConfig], object],
        size: Size,
        precision: Precision,
        num_processes: int = 1,
        sharding: Sharding | None = None,
    ) -> None:
        self.model, self.method, self.size = model, method, size
        self.precision, self.num_processes, self.sharding = precision, num_processes, sharding
        self._steps: dict[tuple[object, ...], tuple[StepBytes, Counts, Held]] = {}
        together = images_together(*size) if precision.device == "cuda" else 1
        self._encoding = encoding_bytes(model.components.vae, together, size)

    def memory(self, config: TrainConfig) -> Memory:
        """Estimate a config. It differs from the model's in options that save memory alone."""
        method = cast("TuningMethod", self.method(config))
        step, counts, held = self._step(config, method)
        components, precision, trained = self.model.components, self.precision, held.trained
        packed = packing(components.denoiser, config.model, precision.dtype)
        weights = num_bytes(trained) + num_bytes(held.frozen) - packed.saved
        vae, texts = FLOAT32 * count(components.vae), FLOAT32 * sum(map(count, components.text_encoders))
        others = (0 if config.cache.latents else vae) + (0 if config.cache.text or in_network(method) else texts)
        average = FLOAT32 * sum(p.numel() for p in trained) if config.train.ema_decay is not None else 0
        is_on_device = config.train.ema_device == "same" or precision.device == "cpu"
        optimizer = state_bytes(trained, config.optim)
        passes = self._passes(config, step, trained) + packed.unpacking + held.gathered
        kept = weights + optimizer + (average if is_on_device else 0) + others
        live = self._encoding + (vae if config.cache.latents else kept)
        return Memory(
            *counts,
            weights,
            optimizer,
            average if is_on_device else 0,
            num_bytes(trained) if self.sharding is not None else step.gradients,
            passes,
            others,
            live,
            0 if in_network(method) else texts,
            self._host(config, method, packed, 0 if is_on_device else average),
        )

    def _step(self, config: TrainConfig, method: TuningMethod) -> tuple[StepBytes, Counts, Held]:
        train, optim = config.train, config.optim
        frees = optim.in_backward or self.num_processes > 1
        key = (
            *(train.gradient_checkpointing, train.batch_size, train.accumulation > 1, train.text_encoder),
            *(optim.weights, frees),
        )
        if key not in self._steps:
            family, components = self.model.family, copy.deepcopy(self.model.components)
            shape = latent_shape(family, components, train.batch_size, self.size)
            network = built_network(family, components, method, config, self.precision)
            assert not isinstance(network, AutoencoderNetwork), "recipes that train autoencoders have several methods"
            prompts = condition(family, components, shape, text_encoder_is_trained=in_network(method))
            num = 1 if self.sharding is None else self.num_processes
            step = denoising_step(
                network, prompts, shape, config, self.precision, frees_gradients=frees, num_sharing=num
            )
            weights = list(network.parameters())
            trained = [parameter for parameter in weights if parameter.requires_grad]
            held = Held(trained, [parameter for parameter in weights if not parameter.requires_grad])
            counts = sum(p.numel() for p in trained), sum(p.numel() for p in held.frozen)
            if self.sharding is not None:
                blocks, denoiser = sharded_blocks(family, network.denoiser), network.denoiser
                held = in_parts(network, denoiser, blocks, self.num_processes, reshards=self.sharding.reshards)
            self._steps[key] = step, counts, held
        return self._steps[key]

    def _passes(self, config: TrainConfig, step: StepBytes, trained: Sequence[nn.Parameter]) -> int:
        if self.sharding is not None:
            return step.peak
        largest = max(parameter.numel() for parameter in trained)
        update = ROUNDED_UPDATE * largest if config.optim.weights != "fp32" else 0
        if config.optim.in_backward:
            return step.peak + update
        if self.num_processes > 1:  # what is exchanged is there from the start
            return step.gradients + max(step.peak, update)
        return max(step.peak, step.gradients + update)

    def _host(self, config: TrainConfig, method: TuningMethod, packed: Packing, average: int) -> int:
        components = self.model.components
        denoiser = num_bytes(list(components.denoiser.parameters()))
        if method.alters_weights:
            denoiser = FLOAT32 * count(components.denoiser)
        texts = FLOAT32 * sum(map(count, components.text_encoders))
        everything = FLOAT32 * (count(components.denoiser) + count(components.vae)) + texts
        exported = 3 * everything if method.exports_all else FLOAT32 * count(components.denoiser)
        return max(denoiser, texts, exported, packed.host + average)


def in_network(method: TuningMethod) -> bool:
    """Check whether the network has the text encoders."""
    return "text_encoders" in method.parts


def count(module: nn.Module) -> int:
    """Count the parameters, one that is used twice once."""
    return sum(parameter.numel() for parameter in module.parameters())
