"""Preservation of a class while a subject is learned. It is DreamBooth's prior without stored images. Axes: B batch, C
channels, H W latent height and width."""

import copy
from dataclasses import dataclass, replace
from typing import Protocol, cast

import torch
from accelerate import PartialState
from accelerate.utils import extract_model_from_parallel
from torch import Tensor

from finetune.batches.batch import Batch
from finetune.models.family import Network
from finetune.models.interfaces import Denoiser, TextEncoder
from finetune.models.prompts import Condition, Prompts, join_prompts
from finetune.objectives.noise import Noise
from finetune.tasks.base import SampleLosses, TaskContext
from finetune.tasks.base_model import adapters_off
from finetune.tasks.denoising import Denoising, Inputs, NetworkCall, denoising


class BaseModel(Protocol):
    """The model as it was before training."""

    def predict(self, network: NetworkCall, noisy: Tensor, t: Tensor, prompts: Condition) -> Tensor:
        """Predict [B C H W] without gradients. `network` is the one in training."""
        ...


@dataclass(frozen=True)
class AdaptersOff:
    """The trained network with its adapters off. That is the base model bit for bit, without a second copy."""

    @torch.no_grad()
    def predict(self, network: NetworkCall, noisy: Tensor, t: Tensor, prompts: Condition) -> Tensor:
        # The wrapper of several processes would take a forward without gradients for one of its own.
        unwrapped = extract_model_from_parallel(network)
        with adapters_off(unwrapped):
            return unwrapped(noisy, t, prompts)


@dataclass(frozen=True)
class FrozenCopy:
    """A second copy of the denoiser, and of trained text encoders."""

    network: Network
    dtype: torch.dtype

    @torch.no_grad()
    def predict(self, network: NetworkCall, noisy: Tensor, t: Tensor, prompts: Condition) -> Tensor:
        with torch.autocast(noisy.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network(noisy, t, prompts).float()


def frozen_copy(context: TaskContext) -> FrozenCopy:
    """Copy the model to the encoder's device. The copy's size is printed."""
    encoder, family = context.encoder, context.encoder.family
    components = encoder.components
    text_encoders: tuple[TextEncoder, ...] = ()
    if encoder.text_encoder_is_trained:
        text_encoders = family.trained_text_encoders(components.text_encoders)
    parts = [components.denoiser, *text_encoders]
    copies = [copy.deepcopy(part).requires_grad_(False).eval().to(encoder.device, context.dtype) for part in parts]
    size = sum(value.numel() * value.element_size() for part in copies for value in part.parameters())
    PartialState().print(
        f"warning: prior.kind prediction with method full keeps a second copy of the model: {size / 1e9:.2f} GB of "
        "memory on each device. method lora needs none; prior.kind pictures keeps it on disk."
    )
    network = Network(family, cast("Denoiser", copies[0]), cast("list[TextEncoder]", copies[1:]))
    return FrozenCopy(network, context.dtype)


@dataclass(frozen=True)
class Preserving:
    """Denoising, plus a distance to the base model's prediction for `prompt`. Both are on the same noisy latents, and
    `weight` multiplies ||f(z_t, t, c_class) - f_0(z_t, t, c_class)||^2, a mean over C H W.

    That is the distillation loss of Learning without Forgetting (arXiv 1606.09282, section 3), which records the old
    network's answers on the new task's inputs, in the place of the second term of DreamBooth's equation 2 (arXiv
    2208.12242): the class drifts where the subject's images are, so this is where it is held. At large t those latents
    are nearly pure noise, from which all images of the class begin. What images alone can show, the variety of the
    class far away from the subject, is held less.
    """

    denoising: Denoising
    base_model: BaseModel
    prompt: str
    weight: float
    prompt_row: Prompts | None
    """The encoded prompt [1 ...]; None where text is encoded at every step."""

    def inputs(self, batch: Batch) -> tuple[Inputs, Condition]:
        """Encode the denoising's inputs, and prompts [2B ...]. Those are the captions, then `prompt` for each."""
        num, encoder = len(batch.captions), self.denoising.encoder
        if batch.prompts is None or self.prompt_row is None:
            texts = encoder.texts(replace(batch, captions=batch.captions + (self.prompt,) * num))
        else:
            texts = join_prompts([batch.prompts] + [self.prompt_row.to(batch.prompts.embeddings.device)] * num)
        own = self.denoising.inputs(batch)
        return own, replace(texts, sizes=twice(own[1].sizes), filling=twice(own[1].filling))

    def losses(self, network: NetworkCall, inputs: tuple[Inputs, Condition], u: Tensor, noise: Noise) -> SampleLosses:
        own, prompts = inputs
        distances: list[Tensor] = []

        def predict(noisy: Tensor, t: Tensor, _: Condition) -> Tensor:
            """Predict both in one pass. The wrapper of several processes counts forward passes."""
            kept = self.base_model.predict(network, noisy, t, prompts.part(slice(len(noisy), None)))
            instance, prior = network(torch.cat([noisy, noisy]), torch.cat([t, t]), prompts).chunk(2)
            distances.append((prior.float() - kept.float()).square().flatten(1).mean(1))
            return instance

        losses = self.denoising.losses(predict, own, u, noise)
        (distance,) = distances
        return replace(losses, unweighted=losses.unweighted + self.weight * distance)

    def plain(self) -> Denoising:
        """Measure the subject alone in validation, as without a prior."""
        return self.denoising.plain()


@dataclass(frozen=True)
class MakePreserving:
    """The maker of the task. The base model is the network without its `adapters`, or a copy of it."""

    prompt: str
    weight: float
    adapters: bool

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,)

    def __call__(self, context: TaskContext) -> Preserving:
        base_model = AdaptersOff() if self.adapters else frozen_copy(context)
        row = context.rows.get(self.prompt)
        return Preserving(denoising(context), base_model, self.prompt, self.weight, row)


def twice(column: Tensor | None) -> Tensor | None:
    """Put a column behind itself."""
    return None if column is None else torch.cat([column, column])
