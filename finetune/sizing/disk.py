"""Bytes of a run's caches on disk."""

from dataclasses import dataclass
from typing import cast

from finetune.batches.buckets import assign_buckets
from finetune.batches.cache_entries import num_bytes, pieces_of_run
from finetune.batches.dataset import TrainingImages
from finetune.batches.fill_caches import used_captions
from finetune.batches.inpaint_masks import Holes
from finetune.methods.base import TuningMethod
from finetune.models.prompts import Prompts
from finetune.planning.plan import Plan
from finetune.run_folder.options import held_out_indices
from finetune.sizing.memory import in_network
from finetune.sizing.model import SizedModel
from finetune.sizing.step import Precision, condition


@dataclass(frozen=True)
class CacheBytes:
    """Entries of a run that other runs may have made already."""

    num_latents: int
    latents: int
    num_captions: int
    captions: int


def cache_bytes(plan: Plan, model: SizedModel, method: TuningMethod, precision: Precision) -> CacheBytes:
    """Count the entries of a plan. Captions of more than one chunk take more than is counted."""
    config, family, components = plan.config, model.family, model.components
    records = plan.manifest.records
    held_out = frozenset(held_out_indices(records, config.validation))
    learned_from = frozenset(range(len(records))) - held_out
    buckets = assign_buckets(records, config.data)
    holes = None
    if family.is_inpainting(model.source):
        holes = Holes(config.inpaint.num_masks, config.inpaint.whole_share)
    trained, scored = ([bucket.only(part) for bucket in buckets] for part in (learned_from, held_out))
    images = TrainingImages(records, trained, plan.manifest.source, config.data, scored, holes=holes)
    num_latents = latents = 0
    if config.cache.latents:
        pixels, channels = family.pixels_per_latent(components.vae), components.vae.config.latent_channels
        for piece in pieces_of_run(images, "").values():
            latents += num_bytes(piece, pixels, channels)
            num_latents += 1
    if not config.cache.text or in_network(method):
        return CacheBytes(num_latents, latents, 0, 0)
    num_captions = len({"", *used_captions(images)})
    found = cast("Prompts", condition(family, components, (1, 4, 8, 8), text_encoder_is_trained=False))
    columns = {name: value for name, value in found.entry().items() if name not in ("sizes", "filling")}
    entry = sum(
        value.numel() * (precision.dtype.itemsize if value.is_floating_point() else value.itemsize)
        for value in columns.values()
    )
    return CacheBytes(num_latents, latents, num_captions, num_captions * entry)
