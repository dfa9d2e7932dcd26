"""Latents and embeddings, from the caches or encoded now."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from finetune.batches.batch import Batch
from finetune.batches.inpaint_masks import Filling, latent_hole
from finetune.models.family import Components, ModelFamily
from finetune.models.parts import ModelParts, Part
from finetune.models.prompts import Condition, Prompts, join_prompts
from finetune.out_of_memory import explaining_out_of_memory
from finetune.randomness import generator

MOST_PIXELS = 8 * 512 * 512
"""Most pixels that an autoencoder encodes at once."""
MOST_IMAGES = 8


def images_together(width: int, height: int) -> int:
    """Count the images that an autoencoder on a GPU encodes at once. That is at most MOST_IMAGES, and for more than one
    at most MOST_PIXELS, so activations take no more memory at a higher resolution."""
    return min(MOST_IMAGES, max(1, MOST_PIXELS // (width * height)))


def posterior_noise(keys: Sequence[str]) -> list[torch.Generator]:
    """Make the generators that sample latents. They are functions of the cache key, so caching changes nothing."""
    return [generator(0, "posterior", key) for key in keys]


@contextmanager
def on_device(modules: Sequence[nn.Module], device: torch.device) -> Generator[None]:
    """Move modules to the device within the context, then back."""
    homes = [next(module.parameters()).device for module in modules]
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)


def explaining_encoding(what: str = "prompts") -> AbstractContextManager[None]:
    """Explain running out of memory by the text encoders. They are on the device as a whole for a while."""
    return explaining_out_of_memory(
        f"while {what} were encoded",
        "The text encoders are on the device in float32 for it, alone. Use a device that holds them, or leave a large "
        "one out where the model can do without (model.without).",
    )


@dataclass(frozen=True, eq=False)
class Encoder:
    """The VAE and text encoders of a run."""

    family: ModelFamily
    components: Components
    device: torch.device
    text_encoder_is_trained: bool = field(kw_only=True)
    parts: ModelParts | None = None
    """Where weights were dropped, which are loaded again."""

    @property
    def one_at_a_time(self) -> bool:
        # This gives the same bits whatever else is encoded with an image or caption; a GPU gains too much from batches,
        # and is not promised bitwise repeatability.
        return self.device.type == "cpu"

    def lent(self, *parts: Part) -> AbstractContextManager[None]:
        """Load the weights of parts within the context."""
        return nullcontext() if self.parts is None else self.parts.lent(*parts)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Tensor:
        """Take the batch's latents from the cache, or encode them. They are [B C H W]."""
        if batch.latents is not None:
            return batch.latents
        assert batch.pixels is not None
        return self.encode_pixels(batch.pixels, batch.keys)

    def prompts(self, batch: Batch) -> Condition:
        """Condition the denoiser: texts, sizes, and the filling of an inpainting model."""
        return replace(self.texts(batch), sizes=batch.sizes, filling=self.filling(batch))

    @torch.no_grad()
    def filling(self, batch: Batch) -> Tensor | None:
        """Take an inpainting model's filling [B 1+C H W], or encode it. It is None for other models."""
        if batch.filling is None or batch.filling.encoded is not None:
            return batch.filling and batch.filling.encoded
        assert batch.pixels is not None
        return self.encode_holes(batch.pixels, batch.filling)

    def encode_holes(self, pixels: Tensor, filling: Filling) -> Tensor:
        """Join masks at the resolution of latents with latents behind grey holes."""
        assert filling.holes is not None
        latents = self.encode_pixels(pixels * (filling.holes < 0.5), filling.keys)
        multiple = self.family.pixels_per_latent(self.components.vae)
        return torch.cat([latent_hole(filling.holes, multiple).to(latents.dtype), latents], dim=1)

    def texts(self, batch: Batch) -> Condition:
        """Take the captions from the cache, or encode them. Where `Network` encodes them, they are tokens."""
        if batch.prompts is not None:
            return batch.prompts
        if self.text_encoder_is_trained:
            tokens = self.family.tokenize(self.components.tokenizers, batch.captions).to(self.device)
            with torch.no_grad():
                return self.family.encode_frozen(self.components.text_encoders, tokens)
        with torch.no_grad():
            return self.encode_captions(batch.captions)

    def images_together(self, width: int, height: int) -> int:
        """Return how many images of a size this device encodes at once."""
        return 1 if self.one_at_a_time else images_together(width, height)

    def encode_pixels(self, pixels: Tensor, keys: Sequence[str]) -> Tensor:
        """Encode images [B 3 h w] to latents [B C H W] in float32."""
        together = self.images_together(pixels.shape[3], pixels.shape[2])
        parts = [
            self.family.encode_images(
                self.components.vae, pixels[start : start + together], posterior_noise(keys[start : start + together])
            )
            for start in range(0, len(pixels), together)
        ]
        return torch.cat(parts).float()

    def encode_captions(self, captions: Sequence[str]) -> Prompts:
        """Encode captions with the text encoders' weights of the moment."""
        if self.one_at_a_time and len(captions) > 1:
            return join_prompts([self.encode_captions([caption]) for caption in captions])
        tokens = self.family.tokenize(self.components.tokenizers, captions).to(self.device)
        return self.family.encode_prompts(self.components.text_encoders, tokens)
