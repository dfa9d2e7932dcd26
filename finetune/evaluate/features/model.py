"""Features of the base model: its latents, and its denoiser's blocks.

Axes: N images, B batch, C channels, H W latent height and width, L tokens, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.config.loss import LossConfig
from finetune.evaluate.features.base import joined, unit_rows
from finetune.models.family import Components, ModelFamily, Network
from finetune.models.parts import is_dropped
from finetune.models.prompts import Prompts, join_prompts, whole_sizes
from finetune.objectives.diffusion import Objective
from finetune.randomness import generator, noise_at

BATCH = 8
"""Images that are encoded at once. It is fixed, so the bits of a result do not depend on how many there are."""
GRID = 4
"""Cells along each side of an image whose contents are compared place by place."""


@dataclass(frozen=True, eq=False)
class FrozenModel:
    """The base model, which never changes while checkpoints are scored."""

    family: ModelFamily
    components: Components
    device: torch.device
    is_placed: bool = False
    """True where the denoiser is on its device, such as one that trains."""
    objective: Objective = field(init=False)
    network: Network = field(init=False)
    encoded: dict[str, Prompts] = field(default_factory=dict[str, Prompts], init=False)
    """Texts that were encoded already."""

    def __post_init__(self) -> None:
        objective = self.family.objective(self.components.scheduler, LossConfig()).plain()
        object.__setattr__(self, "objective", objective)
        network = Network(self.family, self.components.denoiser).eval()
        object.__setattr__(self, "network", network if self.is_placed else network.to(self.device))
        for part in (self.components.vae, *self.components.text_encoders):
            if not is_dropped(part):
                part.to(self.device).eval()

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Encode images [N 3 h w] in [0, 1] to scaled latents [N C H W]. The noise of the posterior is the same."""
        found = []
        for part in images.split(BATCH):
            generators = [generator(0, "evaluate posterior") for _ in part]
            pixels = (part * 2 - 1).to(self.device)
            found.append(self.family.encode_images(self.components.vae, pixels, generators).float())
        return torch.cat(found)

    @torch.no_grad()
    def through_autoencoder(self, images: Tensor) -> Tensor:
        """Decode images [N 3 h w] after encoding them. Then they lack what no drawing of the model can have."""
        vae, found = self.components.vae, []
        for part in images.split(BATCH):
            pixels = (part * 2 - 1).to(vae.device, vae.dtype)
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
            found.append((decoded.float().cpu() / 2 + 0.5).clamp(0, 1))
        return torch.cat(found)

    @torch.no_grad()
    def condition(self, texts: Sequence[str], latents: Tensor) -> Prompts:
        """Encode texts as conditions for latents [B C H W] of whole images. There is one row per text."""
        self.encode_texts(texts)
        encoded = join_prompts([self.encoded[text] for text in texts])
        pixels = self.family.pixels_per_latent(self.components.vae)
        height, width = (side * pixels for side in latents.shape[2:])
        sizes = whole_sizes(len(texts), height, width).to(self.device)
        return replace(encoded, sizes=sizes, filling=self._filling(len(texts), latents))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> None:
        """Encode texts, each once. Later conditions on them need no text encoders."""
        for text in texts:
            if text not in self.encoded:
                encoders, tokenizers = self.components.text_encoders, self.components.tokenizers
                tokens = self.family.tokenize(tokenizers, [text]).to(self.device)
                self.encoded[text] = self.family.encode_prompts(encoders, tokens)

    def _filling(self, num: int, latents: Tensor) -> Tensor | None:
        """Hide all of the image from an inpainting model."""
        channels = self.family.filling_channels(self.components)
        if channels < 1:
            return None
        hidden = torch.zeros(num, channels, *latents.shape[2:], device=self.device)
        hidden[:, 0] = 1
        return hidden

    def timestep(self, u: float, latents: Tensor) -> Tensor:
        """Choose the timesteps [B] at a share u of the way to noise."""
        shares = torch.full((len(latents),), u, dtype=torch.float64)
        size = (latents.shape[2], latents.shape[3])
        return self.objective.sample_timesteps(shares, size).to(self.device)


@dataclass(frozen=True, eq=False)
class Latents:
    """The latents of an image, place by place, without their means. Images of the same layout are near."""

    model: FrozenModel
    name: str = "latents of the base model"

    def encode(self, images: Tensor) -> Tensor:
        latents = self.model.latents(images)
        return unit_rows((latents - latents.mean((2, 3), keepdim=True)).flatten(1).cpu())


@dataclass(frozen=True, eq=False)
class DenoiserStyle:
    """Mean and deviation of each channel of the frozen denoiser. The image is slightly noisy."""

    model: FrozenModel
    name: str = "channel statistics of the base model's denoiser"
    u: float = 0.1

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([joined([statistics(block) for block in part]) for part in block_outputs(self, images)])


@dataclass(frozen=True, eq=False)
class DenoiserContent:
    """Outputs of the frozen denoiser's blocks, averaged over a grid of places."""

    model: FrozenModel
    name: str = "grid of the base model's denoiser"
    u: float = 0.25

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([joined([pooled(block) for block in part]) for part in block_outputs(self, images)])


def statistics(block: Tensor) -> Tensor:
    """Compute mean and deviation [B 2C] of channels [B C H W]."""
    flat = block.flatten(2)
    return torch.cat([flat.mean(2), flat.std(2)], dim=1)


def pooled(block: Tensor) -> Tensor:
    """Average channels [B C H W] over a grid, [B C*GRID*GRID], without the mean over the image."""
    return F.adaptive_avg_pool2d(block, min(GRID, block.shape[2], block.shape[3])).flatten(1)


@torch.no_grad()
def block_outputs(feature: DenoiserStyle | DenoiserContent, images: Tensor) -> Iterator[list[Tensor]]:
    """Yield the outputs [B C H W] of all blocks for each batch. Noise, timestep and the empty prompt are fixed."""
    model = feature.model
    for part in images.split(BATCH):
        clean = model.latents(part)
        t = model.timestep(feature.u, clean)
        noise = noise_at(0, [0], clean.shape[1:], "evaluate").expand_as(clean).to(clean)
        prompts = model.condition([""] * len(clean), clean)
        with recorded_blocks(model.network.denoiser) as outputs:
            model.network(model.objective.add_noise(clean, noise, t), t, prompts)
        yield [planes(output, clean).float().cpu() for output in outputs]


@contextmanager
def recorded_blocks(denoiser: nn.Module) -> Iterator[list[object]]:
    """Record what each of the denoiser's blocks returns."""
    outputs: list[object] = []
    hooks = [
        block.register_forward_hook(lambda module, given, returned: outputs.append(returned))
        for block in blocks_of(denoiser)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


MOST_BLOCKS = 8


def blocks_of(denoiser: nn.Module) -> list[nn.Module]:
    """Find the denoiser's blocks in order. They are the children of its lists, and a middle one; of many, evenly
    spread ones."""
    found: list[nn.Module] = []
    for name, child in denoiser.named_children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if any(True for _ in block.parameters())]
        elif name.startswith("mid"):
            found.append(child)
    if not found:
        raise ValueError(f"features: {type(denoiser).__name__} has no lists of blocks, so none can be recorded.")
    num = min(MOST_BLOCKS, len(found))
    return [found[(2 * place + 1) * len(found) // (2 * num)] for place in range(num)]


def planes(output: object, latents: Tensor) -> Tensor:
    """Bring a block's output to [B C H W]. Of a sequence, the last tokens are those of the image."""
    parts = cast("tuple[object, ...]", output) if isinstance(output, tuple | list) else (output,)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    images = [tensor for tensor in tensors if tensor.dim() == 4]
    if images:
        return images[0]
    height, width = latents.shape[2], latents.shape[3]
    longest = max(tensors, key=lambda tensor: tensor.shape[1])  # [B L D]; the other is the prompt's
    for patch in (1, 2, 4):
        num = (height // patch) * (width // patch)
        if num <= longest.shape[1]:
            return longest[:, -num:].transpose(1, 2).unflatten(2, (height // patch, width // patch))
    raise ValueError(f"features: a block returned {longest.shape[1]} tokens for latents of {height}x{width}.")
