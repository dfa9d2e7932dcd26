"""Training samples from records and positions in the sample stream."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from finetune.batches.batch import Batch
from finetune.batches.batch_errors import naming_images
from finetune.batches.buckets import Bucket
from finetune.batches.inpaint_masks import Filling, Holes, filling_key, hole
from finetune.batches.latent_masks import LatentMasks
from finetune.batches.pixels import record_pixels
from finetune.batches.preview_prompts import DrawingPrompts
from finetune.batches.store import ShardStore, cache_key
from finetune.batches.view import View, view_sizes, views
from finetune.config.sections import DataConfig
from finetune.data.captions.choice import CaptionOptions, caption_variants, draw_caption
from finetune.data.kept_files import KeptFiles
from finetune.data.listing import ImageSource
from finetune.data.manifest import Record
from finetune.models.prompts import Condition, Prompts
from finetune.randomness import uniform


def latent_key(record: Record, view: View, vae_fingerprint: str) -> str:
    """Make the cache key of a view's latents."""
    return cache_key("latents", record.sha256, view, vae_fingerprint)


def text_key(text: str, encoder_fingerprint: str, dtype: torch.dtype) -> str:
    """Make the cache key of a text's embeddings."""
    return cache_key("text", text, encoder_fingerprint, dtype)


@dataclass(frozen=True)
class Encoded:
    """The caches of a run and the keys to them. Without a store, encode at every step."""

    vae_fingerprint: str
    encoder_fingerprint: str
    text_dtype: torch.dtype
    latents: ShardStore | None
    text: ShardStore | None
    masks: ShardStore | None = None
    drawing: DrawingPrompts = field(default_factory=dict[str, Condition])
    """Those of the previews that this process draws, where no text encoder trains."""

    def prompts(self, text: str) -> Prompts | None:
        """Read an encoded text [1 ...]; None where texts are not cached."""
        if self.text is None:
            return None
        return Prompts.from_entry(self.text.read(text_key(text, self.encoder_fingerprint, self.text_dtype)))


@dataclass(frozen=True)
class TrainingImages:
    """The images of a run with their crops, captions, masks and holes."""

    records: Sequence[Record]
    buckets: Sequence[Bucket]
    """What is trained on."""
    source: ImageSource
    data: DataConfig
    held_out: Sequence[Bucket] = ()
    """What validation scores."""
    prompts: Sequence[str] = ()
    """Texts beside the captions that the task reads."""
    masks: LatentMasks | None = None
    holes: Holes | None = None
    kept: KeptFiles = field(default_factory=KeptFiles)
    """Files that need not be read again to fill the caches."""

    def passes(self, num_seen: int) -> float:
        """Return how many passes `num_seen` images are. A pass has the trained images with their repeats."""
        return num_seen / sum(self.records[index].repeats for bucket in self.buckets for index in bucket.records)


class TrainingDataset(torch.utils.data.Dataset[Batch]):
    """Samples by (record index, position). Crop, flip and caption are functions of (seed, position)."""

    def __init__(self, images: TrainingImages, encoded: Encoded, seed: int) -> None:
        records = images.records
        self.records, self.source, self.masks, self.holes = records, images.source, images.masks, images.holes
        self.views = {
            index: views(records[index], bucket, images.data) for bucket in images.buckets for index in bucket.records
        }
        self.captions = caption_options(images.data)
        self.encoded = encoded
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        index, position = place
        choices = self.views[index]
        view = choices[int(uniform(self.seed, "view", position) * len(choices))]
        caption = draw_caption(
            self.records[index].captions,
            self.captions,
            u=uniform(self.seed, "caption", position),
            drop_u=uniform(self.seed, "dropout", position),
        )
        hole_number = self.holes.drawn(self.seed, position) if self.holes else 0
        with naming_images("read", lambda: [self.records[index].file_name]):
            return self.sample(index, position, view, caption, hole_number)

    def sample(self, index: int, position: int, view: View, caption: str, hole_number: int = 0) -> Batch:
        """Make the sample for a chosen view, caption and hole. Caches are read where there are any."""
        record, encoded = self.records[index], self.encoded
        key = latent_key(record, view, encoded.vae_fingerprint)
        latents = encoded.latents and encoded.latents.read(key)["latents"][None]
        return Batch(
            indices=(index,),
            positions=(position,),
            captions=(caption,),
            keys=(key,),
            weight=torch.tensor([record.weight]),
            sizes=torch.tensor([view_sizes(record, view)]),
            latents=latents,
            pixels=record_pixels(self.source, record, view)[None] if latents is None else None,
            prompts=encoded.prompts(caption),
            mask=self._mask(record, view),
            filling=self._filling(record, view, hole_number) if self.holes else None,
        )

    def _mask(self, record: Record, view: View) -> Tensor | None:
        if self.masks is None:
            return None
        if self.encoded.masks is None:
            return self.masks.read(record, view)[None]
        return self.encoded.masks.read(self.masks.key(record, view))["mask"][None]

    def _filling(self, record: Record, view: View, number: int) -> Filling:
        key = filling_key(record, view, number, self.encoded.vae_fingerprint)
        if self.encoded.latents is None:
            return Filling((key,), None, hole(record.sha256, number, view.width, view.height)[None])
        return Filling((key,), self.encoded.latents.read(key)["filling"][None], None)


def caption_options(config: DataConfig) -> CaptionOptions:
    """Select the caption part of the data options."""
    return CaptionOptions(
        dropout=config.caption_dropout,
        template=config.template,
        shuffle_tags=config.shuffle_tags,
        keep_tags=config.keep_tags,
        num_shuffles=config.num_shuffles,
    )


def validation_caption(record: Record, config: DataConfig) -> str:
    """Choose the caption of a held-out image. It is the first, in its own order."""
    return caption_variants(record.captions[:1], replace(caption_options(config), shuffle_tags=False))[0]
