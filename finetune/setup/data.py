"""The data of a run: held-out images, buckets, filled caches, loader."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from finetune.batches.batch import collate_by_name
from finetune.batches.buckets import (
    Bucket,
    BucketBatchSampler,
    BucketFigures,
    assign_buckets,
    bucket_figures,
    refuse_longer_sides,
)
from finetune.batches.dataset import TrainingDataset, TrainingImages
from finetune.batches.encoder import Encoder
from finetune.batches.fill_caches import build_caches, used_captions
from finetune.batches.inpaint_masks import Holes
from finetune.batches.latent_masks import LatentMasks
from finetune.batches.preview_prompts import refuse_unfit_previews
from finetune.batches.truncated_captions import cut_warnings
from finetune.data.folders import count_lines, folder_counts
from finetune.planning.advice import own_share
from finetune.planning.scale_warnings import scale_warnings
from finetune.plurals import plural
from finetune.processes.signals import outlive_signals
from finetune.run_folder.options import held_out_indices
from finetune.session import LoadedModel, Run, TrainingData
from finetune.setup.tracking import device_name


def prepare_data(run: Run, model: LoadedModel, prompts: Sequence[str]) -> TrainingData:
    """Return the data with filled caches. The task's own prompts are cached too. The figures are printed first."""
    config = run.config
    refuse_unfit_previews(run.family, model.components, config.preview, config.data.resolution, config.loss)
    held_out = frozenset(held_out_indices(run.manifest.records, config.validation))
    images = training_images(run, model, held_out, prompts)
    figures = [bucket_figures(bucket, images.records) for bucket in images.buckets]
    describe(run, figures, held_out)
    run.say(machine_line(run, images.passes(run.steps * run.global_batch_size)))
    warnings = [
        *bucket_warnings(run, figures),
        *cut_warnings(run.family, model.components.tokenizers, used_captions(images), config.preview),
        *size_warnings(run, model, held_out),
    ]
    run.warn([*run.warnings, *model.warnings, *warnings])
    encoder = Encoder(
        run.family,
        model.components,
        run.accelerator.device,
        text_encoder_is_trained=model.trains_text_encoders,
        parts=model.parts,
    )
    cache = replace(config.cache, text=config.cache.text and not model.trains_text_encoders)
    encoded = build_caches(encoder, run.accelerator, images, cache, cache.place, model.dtype, config.preview)
    dataset = TrainingDataset(images, encoded, config.seed)
    loader = make_loader(run, images, dataset)
    return TrainingData(held_out, images, figures, dataset, loader, encoder, encoded.drawing, warnings)


def training_images(run: Run, model: LoadedModel, held_out: frozenset[int], prompts: Sequence[str]) -> TrainingImages:
    """Return trained and held-out images, with the options' masks and inpainting areas."""
    config, manifest = run.config, run.manifest
    buckets, scored = split_buckets(run, model, held_out)
    masks = None
    if config.mask.kind != "none":
        assert manifest.masks is not None, "the manifest was read without the mask options"
        masks = LatentMasks(config.mask.kind, manifest.masks, run.family.pixels_per_latent(model.components.vae))
    holes = Holes(config.inpaint.num_masks, config.inpaint.whole_share) if model.is_inpainting else None
    return TrainingImages(
        manifest.records, buckets, manifest.source, config.data, scored, prompts, masks, holes, manifest.kept
    )


def split_buckets(run: Run, model: LoadedModel, held_out: frozenset[int]) -> tuple[list[Bucket], list[Bucket]]:
    """Return the buckets of trained images, and those of held-out ones."""
    config, family, records = run.config, run.family, run.manifest.records
    multiple = family.pixel_multiple(model.components.vae)
    if config.data.bucket_step % multiple:
        raise ValueError(
            f"data.bucket_step: got {config.data.bucket_step}, expected a multiple of {multiple} for this VAE."
        )
    buckets = assign_buckets(records, config.data)
    refuse_longer_sides([(bucket.width, bucket.height) for bucket in buckets], family.longest_side(model.components))
    learned_from = frozenset(range(len(records))) - held_out
    trained = [part for bucket in buckets if (part := bucket.only(learned_from)).records]
    if not trained:
        raise ValueError(
            f"data.folder: all images ({len(records)}) are held out for validation. Lower validation.fraction."
        )
    return trained, [part for bucket in buckets if (part := bucket.only(held_out)).records]


def describe(run: Run, figures: Sequence[BucketFigures], held_out: frozenset[int]) -> None:
    """Print the numbers of images, by folder too, and their sizes."""
    num = plural(len(run.manifest.records), "image")
    run.say(f"{num}, {len(held_out)} held out; global batch size {run.global_batch_size}.")
    for line in count_lines(folder_counts(run.manifest, held_out)):
        run.say(line)
    for figure in figures:
        run.say(
            f"  bucket {figure.width}x{figure.height}: {plural(figure.num_pictures, 'image')}, "
            f"{figure.crop_loss_mean:.1%} of the area cropped, {figure.num_upscaled} upscaled"
        )


def machine_line(run: Run, passes: float) -> str:
    """Return what the run computes on, in which precision, and its length."""
    accelerator, steps = run.accelerator, run.steps
    return (
        f"{plural(accelerator.num_processes, 'process', 'processes')} on {device_name(accelerator.device)}, mixed "
        f"precision {accelerator.mixed_precision}; {plural(steps, 'step')}, {passes:,.3g} passes over the images."
    )


def bucket_warnings(run: Run, figures: Sequence[BucketFigures]) -> list[str]:
    """Warn if a global batch is larger than a bucket."""
    small = [figure for figure in figures if figure.num_pictures < run.global_batch_size]
    if not small:
        return []
    return [
        f"{plural(len(small), 'bucket has', 'buckets have')} fewer images than a global batch of "
        f"{run.global_batch_size}, so an image can be in it more than once; a smaller data.max_aspect or batch avoids "
        "this."
    ]


def size_warnings(run: Run, model: LoadedModel, held_out: frozenset[int]) -> Iterator[str]:
    """Yield warnings if the run misfits its base model or dataset."""
    config, components = run.config, model.components
    learned_from = [record for index, record in enumerate(run.manifest.records) if index not in held_out]
    seen = config.train.steps * run.global_batch_size * own_share(config)
    return scale_warnings(
        components.denoiser.config,
        run.family.pixels_per_latent(components.vae),
        config.data.resolution,
        len(learned_from),
        seen / sum(record.repeats for record in learned_from),
    )


def make_loader(run: Run, images: TrainingImages, dataset: TrainingDataset) -> torch.utils.data.DataLoader:
    """Return the loader of this process's part of the remaining global batches."""
    repeats = [record.repeats for record in images.records]
    return run.accelerator.prepare(
        torch.utils.data.DataLoader(
            dataset,
            batch_sampler=BucketBatchSampler(
                images.buckets, repeats, run.global_batch_size, seed=run.config.seed, start=run.first_step
            ),
            collate_fn=functools.partial(collate_by_name, images.records),
            num_workers=run.config.data.num_workers,
            pin_memory=run.accelerator.device.type == "cuda",
            worker_init_fn=outlive_signals,
        )
    )
