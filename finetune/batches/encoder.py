"""Images to latents and captions to embeddings: those of a batch from the caches, or encoded now."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from finetune.batches.batch import Batch
from finetune.batches.inpaint_masks import Filling, latent_hole
from finetune.models.family import Components, ModelFamily, Prompts, stack_prompts
from finetune.models.parts import ModelParts, Part
from finetune.out_of_memory import explaining_out_of_memory
from finetune.randomness import generator

MOST_PIXELS = 8 * 512 * 512
"""That an autoencoder encodes at once."""
MOST_IMAGES = 8


def images_together(width: int, height: int) -> int:
    """Returns how many images of a size an autoencoder on a GPU encodes at once: at most MOST_IMAGES, and for
    more than one at most MOST_PIXELS, so activations take no more memory at a higher resolution."""
    return min(MOST_IMAGES, max(1, MOST_PIXELS // (width * height)))


def posterior_noise(keys: Sequence[str]) -> list[torch.Generator]:
    """Returns the generators that latents are sampled with: a function of the cache key, so that caching changes
    nothing."""
    return [generator(0, "posterior", key) for key in keys]


@contextmanager
def on_device(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Moves modules to the device, and afterwards back to where each was."""
    homes = [next(module.parameters()).device for module in modules]
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module, home in zip(modules, homes, strict=True):
            module.to(home)


def explaining_encoding(what: str = "prompts") -> AbstractContextManager[None]:
    """Within it, running out of memory names the text encoders, which are on the device as a whole for a while."""
    return explaining_out_of_memory(
        f"while {what} were encoded",
        "The text encoders are on the device in float32 for it, alone. Use a device that holds them, or leave a large "
        "one out where the model can do without (model.without).",
    )


class Encoder:
    """The VAE and text encoders of a run, with what was cached of them."""

    def __init__(
        self,
        family: ModelFamily,
        components: Components,
        device: torch.device,
        *,
        text_encoder_is_trained: bool,
        parts: ModelParts | None = None,
    ) -> None:
        """Parts bring back weights that were dropped; none where all are there."""
        self.family = family
        self.components = components
        self.device = device
        self.text_encoder_is_trained = text_encoder_is_trained
        self.parts = parts
        # One image or caption at a time gives the same bits whatever else is encoded with it; a GPU gains too much
        # from batches, and is not promised bitwise repeatability.
        self.one_at_a_time = device.type == "cpu"

    def lent(self, *parts: Part) -> AbstractContextManager[None]:
        """Within it the parts have their weights."""
        return nullcontext() if self.parts is None else self.parts.lent(*parts)

    @torch.no_grad()
    def latents(self, batch: Batch) -> Tensor:
        """Returns the batch's latents [B C H W], from the cache or encoded now."""
        if batch.latents is not None:
            return batch.latents
        assert batch.pixels is not None
        return self.encode_pixels(batch.pixels, batch.keys)

    def prompts(self, batch: Batch) -> Prompts:
        """Returns what the denoiser is conditioned on: from the caches, encoded now, or with tokens where `Network`
        encodes them."""
        return self.texts(batch) | self.given(batch)

    @torch.no_grad()
    def given(self, batch: Batch) -> Prompts:
        """Returns the part of the prompts that is no text: sizes, and filling of an inpainting model."""
        if batch.filling is None:
            return {"sizes": batch.sizes}
        encoded = batch.filling.encoded
        if encoded is None:
            assert batch.pixels is not None
            encoded = self.encode_holes(batch.pixels, batch.filling)
        return {"sizes": batch.sizes, "filling": encoded}

    def encode_holes(self, pixels: Tensor, filling: Filling) -> Tensor:
        """The masks at the resolution of the latents, and the latents of the pictures with grey holes: [B 1+C H W]."""
        assert filling.holes is not None
        latents = self.encode_pixels(pixels * (filling.holes < 0.5), filling.keys)
        multiple = self.family.pixels_per_latent(self.components.vae)
        return torch.cat([latent_hole(filling.holes, multiple).to(latents.dtype), latents], dim=1)

    def texts(self, batch: Batch) -> Prompts:
        """Returns the part of the prompts that is text: from the cache, encoded now, or tokens."""
        if batch.prompts is not None:
            return batch.prompts
        if self.text_encoder_is_trained:
            tokens = self.family.tokenize(self.components.tokenizers, batch.captions)
            tokens = {name: value.to(self.device) for name, value in tokens.items()}
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
            rows = [self.encode_captions([caption]) for caption in captions]
            return stack_prompts([{name: value[0] for name, value in row.items()} for row in rows])
        tokens = self.family.tokenize(self.components.tokenizers, captions)
        on_device = {name: value.to(self.device) for name, value in tokens.items()}
        return self.family.encode_prompts(self.components.text_encoders, on_device)
