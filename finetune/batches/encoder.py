"""Pictures to latents and captions to embeddings: into the caches beforehand, or batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from finetune.batches.batch import Batch
from finetune.batches.buckets import Bucket
from finetune.batches.dataset import View, caption_options, record_pixels
from finetune.batches.inpaint_masks import WHOLE, Filling, hole, latent_hole
from finetune.batches.store import Entry
from finetune.config.sections import DataConfig
from finetune.data.captions.choice import caption_variants
from finetune.data.manifest import ImageSource, Record
from finetune.models.family import Components, ModelFamily, Prompts, stack_prompts
from finetune.models.parts import ModelParts, Part
from finetune.out_of_memory import explaining_out_of_memory
from finetune.plurals import plural
from finetune.randomness import generator

MOST_PIXELS = 8 * 512 * 512
"""That an autoencoder encodes at once."""
MOST_IMAGES = 8


def validation_view(bucket: Bucket) -> View:
    """Returns the one view that a held-out picture is scored in: the centre, not mirrored."""
    return View(bucket.width, bucket.height, 0.5, 0.5, False)


def validation_caption(record: Record, config: DataConfig) -> str:
    """Returns the one caption that a held-out picture is scored with: its first, in its own order."""
    return caption_variants(record.captions[:1], replace(caption_options(config), shuffle_tags=False))[0]


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
        self.unreadable: list[str] = []
        self.colour_warnings: list[str] = []

    def lent(self, *parts: Part) -> AbstractContextManager[None]:
        """Within it the parts have their weights."""
        return nullcontext() if self.parts is None else self.parts.lent(*parts)

    @torch.no_grad()
    def encode_views(
        self, source: ImageSource, items: Sequence[tuple[str, Record, View]]
    ) -> Iterator[tuple[str, Entry]]:
        """Yields (key, {"latents": [C H W]}) for (key, record, view) items."""
        by_size: dict[tuple[int, int], list[tuple[str, Record, View]]] = {}
        for item in items:
            by_size.setdefault((item[2].width, item[2].height), []).append(item)
        for (width, height), group in by_size.items():
            together = self._together(width, height)
            for start in range(0, len(group), together):
                decoded = []
                for key, record, view in group[start : start + together]:
                    try:
                        pixels = record_pixels(source, record, view, self.colour_warnings.append)
                        decoded.append((key, record.file_name, pixels))
                    except ValueError as error:
                        self.unreadable.append(str(error))
                if decoded:
                    keys, names, pictures = zip(*decoded, strict=True)
                    with explaining_out_of_memory(
                        f"while {plural(len(pictures), 'image')} of {width}x{height} were encoded to latents",
                        "Lower data.resolution or data.max_aspect.",
                    ):
                        latents = self._latents(torch.stack(pictures).to(self.device), keys)
                    for key, name, row in zip(keys, names, latents.cpu(), strict=True):
                        refuse_non_finite(row, f"latents of the picture {name}")
                        yield key, {"latents": row}
        self.refuse_unreadable()

    @torch.no_grad()
    def encode_fillings(
        self, source: ImageSource, items: Sequence[tuple[str, Record, View, int]]
    ) -> Iterator[tuple[str, Entry]]:
        """Yields (key, {"filling": [1+C H W]}) for (key, record, view, number of the hole) items, one at a time."""
        shown, pixels = None, torch.zeros(0)
        for key, record, view, number in items:
            if number == WHOLE:
                shown, pixels = None, torch.zeros(3, view.height, view.width)
            elif shown != (record.sha256, view):
                shown, pixels = (record.sha256, view), record_pixels(source, record, view)
            hidden = hole(record.sha256, number, view.width, view.height)
            with explaining_out_of_memory(
                f"while an image of {view.width}x{view.height} with a hole was encoded to latents",
                "Lower data.resolution or data.max_aspect.",
            ):
                filling = self._filling(
                    pixels[None].to(self.device), Filling((key,), None, hidden[None].to(self.device))
                )
            refuse_non_finite(filling, f"latents of the picture {record.file_name} with a hole")
            yield key, {"filling": filling[0].cpu()}

    def check_pictures(self, source: ImageSource, items: Sequence[tuple[Record, View]]) -> Iterator[int]:
        """Decodes pictures without encoding them, yielding 1 for each; for runs that encode at every step."""
        for record, view in items:
            try:
                record_pixels(source, record, view, self.colour_warnings.append)
            except ValueError as error:
                self.unreadable.append(str(error))
            yield 1
        self.refuse_unreadable()

    def refuse_unreadable(self) -> None:
        """Raises one ValueError for all pictures that could not be read."""
        if self.unreadable:
            listed = sorted(set(self.unreadable))
            shown = "\n".join(listed[:10] + ([f"... and {len(listed) - 10} more"] if len(listed) > 10 else []))
            raise ValueError(
                f"data.folder: {plural(len(listed), 'image')} cannot be used. Repair or remove them, or let "
                f"`python -m datasets_prep` sort them out:\n{shown}"
            )

    @torch.no_grad()
    def encode_texts(self, texts: dict[str, str], dtype: torch.dtype) -> Iterator[tuple[str, Entry]]:
        """Yields (key, {"embeddings": [N*L D], ...}) for {key: text}."""
        for key, text in texts.items():
            rows = {name: value[0].cpu() for name, value in self._prompts([text]).items()}
            rows = {name: row.to(dtype) if row.is_floating_point() else row for name, row in rows.items()}
            advice = f"They are kept in {str(dtype).removeprefix('torch.')}. Give another checkpoint or variant"
            advice += ", or launch with mixed_precision bf16." if dtype == torch.float16 else "."
            for row in rows.values():
                refuse_non_finite(row, f'embeddings of the caption "{text}"', advice)
            yield key, rows

    @torch.no_grad()
    def latents(self, batch: Batch) -> Tensor:
        """Returns the batch's latents [B C H W], from the cache or encoded now."""
        if batch.latents is not None:
            return batch.latents
        assert batch.pixels is not None
        return self._latents(batch.pixels, batch.keys)

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
            encoded = self._filling(batch.pixels, batch.filling)
        return {"sizes": batch.sizes, "filling": encoded}

    def _filling(self, pixels: Tensor, filling: Filling) -> Tensor:
        """The masks at the resolution of the latents, and the latents of the pictures with grey holes: [B 1+C H W]."""
        assert filling.holes is not None
        latents = self._latents(pixels * (filling.holes < 0.5), filling.keys)
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
            return self._prompts(batch.captions)

    def _together(self, width: int, height: int) -> int:
        return 1 if self.one_at_a_time else images_together(width, height)

    def _latents(self, pixels: Tensor, keys: Sequence[str]) -> Tensor:
        together = self._together(pixels.shape[3], pixels.shape[2])
        parts = [
            self.family.encode_images(
                self.components.vae, pixels[start : start + together], posterior_noise(keys[start : start + together])
            )
            for start in range(0, len(pixels), together)
        ]
        return torch.cat(parts).float()

    def _prompts(self, captions: Sequence[str]) -> Prompts:
        if self.one_at_a_time and len(captions) > 1:
            rows = [self._prompts([caption]) for caption in captions]
            return stack_prompts([{name: value[0] for name, value in row.items()} for row in rows])
        tokens = self.family.tokenize(self.components.tokenizers, captions)
        on_device = {name: value.to(self.device) for name, value in tokens.items()}
        return self.family.encode_prompts(self.components.text_encoders, on_device)


BROKEN_VAE = "The VAE computes in float32, so its weights must be damaged. Give another checkpoint or variant."


def refuse_non_finite(values: Tensor, what: str, advice: str = BROKEN_VAE) -> None:
    """Raises ValueError where what is to be cached holds NaN or infinity, which whatever trains on it catches."""
    if not bool(values.isfinite().all()):
        raise ValueError(f"model.source: the {what} are not finite numbers (NaN or infinity). {advice}")
