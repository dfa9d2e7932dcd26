"""The bytes of a training step, run on torch's meta device.

Axes: B batch, C channels, H W latent height and width, L tokens.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from finetune.config.train import TrainConfig
from finetune.methods.base import TuningMethod
from finetune.models.family import AutoencoderNetwork, Components, ModelFamily, Network
from finetune.models.prompts import Condition, Tokens, whole_sizes
from finetune.models.stored import cast_and_move
from finetune.run.device import TRAINED_DTYPES
from finetune.sizing.autocast import Device, MetaAutocast, recompute_with_casts
from finetune.sizing.live_bytes import LiveBytes
from finetune.sizing.parts import part

META = torch.device("meta")


@dataclass(frozen=True)
class Precision:
    """The number format of frozen weights and products, and their device."""

    dtype: torch.dtype
    device: Device

    @property
    def autocast(self) -> torch.dtype | None:
        """The format that float32 is cast to; None casts nothing."""
        return None if self.dtype == torch.float32 else self.dtype


@dataclass(frozen=True)
class StepBytes:
    """Bytes that forward and backward passes add to weights and state."""

    peak: int
    """Activations and gradients at the worst moment."""
    gradients: int
    """All gradients, as they are after the last backward pass."""


def built_network(
    family: ModelFamily, components: Components, method: TuningMethod, config: TrainConfig, precision: Precision
) -> Network | AutoencoderNetwork:
    """Return the network as it trains, on the meta device. The components are changed."""
    network = method.network(family, components)
    with META:
        method.attach(network, config.seed)
    trained = TRAINED_DTYPES[config.optim.weights]
    cast_and_move(network, trained=trained, frozen=precision.dtype, device=META)
    if config.train.gradient_checkpointing:
        network.checkpoint_gradients()
        recompute_with_casts(network, precision.autocast, precision.device)
    return network.train()


def tokens_on_meta(family: ModelFamily, components: Components, num: int) -> Tokens:
    """Return the tokens of `num` captions of usual length. The number of their chunks, which decides shapes, stays
    readable."""
    tokens = family.tokenize(components.tokenizers, ["a"] * num)
    return replace(tokens.to(META), chunks=tokens.chunks)


def condition(
    family: ModelFamily, components: Components, shape: tuple[int, int, int, int], *, text_encoder_is_trained: bool
) -> Condition:
    """Return the condition of the denoiser for latents of a shape [B C H W]."""
    num, _, rows, columns = shape
    tokens = tokens_on_meta(family, components, num)
    with torch.no_grad(), MetaAutocast(None, "cpu"):
        if text_encoder_is_trained:
            found: Condition = family.encode_frozen(components.text_encoders, tokens)
        else:
            found = family.encode_prompts(components.text_encoders, tokens)
    pixels = family.pixels_per_latent(components.vae)
    sizes = whole_sizes(num, rows * pixels, columns * pixels).to(META)
    channels = family.filling_channels(components)
    filling = torch.empty(num, channels, rows, columns, device=META) if channels else None
    return replace(found, sizes=sizes, filling=filling)


def latent_shape(
    family: ModelFamily, components: Components, num: int, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the shape [B C H W] of images of a size (width, height)."""
    pixels = family.pixels_per_latent(components.vae)
    return num, components.vae.config.latent_channels, size[1] // pixels, size[0] // pixels


def denoising_step(
    network: Network,
    prompts: Condition,
    shape: tuple[int, int, int, int],
    config: TrainConfig,
    precision: Precision,
    *,
    frees_gradients: bool,
    num_sharing: int = 1,
) -> StepBytes:
    """Run the forward and backward passes of a step. Latents of a pass have the shape [B C H W]. `frees_gradients`
    drops each one when it is complete, as updates in the backward pass do. Of several processes that share the denoiser
    (FSDP2), each keeps a part."""
    noisy, target = (torch.empty(shape, device=META) for _ in range(2))
    t = torch.zeros(shape[0], dtype=torch.long, device=META)

    def loss() -> Tensor:
        with MetaAutocast(precision.autocast, precision.device, keeps_weights=num_sharing == 1):
            predicted = network(noisy, t, prompts)
        return (predicted.float() - target).square().mean()

    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    shared = {id(parameter) for parameter in network.denoiser.parameters()} if num_sharing > 1 else set[int]()
    parts: dict[int, Tensor] = {}

    def complete(parameter: Tensor) -> None:
        if id(parameter) in shared:
            parts[id(parameter)] = part(parameter, num_sharing)
        if id(parameter) in shared or frees_gradients:
            parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(complete) for parameter in parameters]
    with LiveBytes() as held:
        for _ in range(min(config.train.accumulation, 2)):  # later passes are like the second
            torch.autograd.backward(loss())
    for handle in handles:
        handle.remove()
    network.zero_grad()
    sizes = [parameter.numel() * parameter.itemsize for parameter in parameters]
    return StepBytes(held.peak, max(sizes) if config.optim.in_backward else sum(sizes))


def encoding_bytes(vae: nn.Module, num: int, size: tuple[int, int]) -> int:
    """Count the bytes of encoding images, beside the weights. Their size is (width, height)."""
    pixels = torch.empty(num, 3, size[1], size[0], device=META)
    with torch.no_grad(), MetaAutocast(None, "cpu"), LiveBytes() as held:
        vae.encode(pixels)  # pyright: ignore[reportCallIssue]
    return held.peak
