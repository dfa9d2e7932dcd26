"""The prepared folder, from the decisions of the stages."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from datasets_prep.caches.content import ContentCache
from datasets_prep.config import PrepConfig
from datasets_prep.context import Context
from datasets_prep.lint.stage import lint_marks
from datasets_prep.masks import Masks, masks_of_kept, unused_masks
from datasets_prep.measure.image import TRANSPARENT, colour
from datasets_prep.measure.quality import all_flags
from datasets_prep.output.folder import NothingUsable, State
from datasets_prep.output.publish import publish
from datasets_prep.records import Prepared, Rejected
from datasets_prep.report.thumbnails import SmallImage, cached_small_image
from datasets_prep.rows import Kept, LazyRows
from datasets_prep.selection import counted, counts_in_words
from datasets_prep.source_metadata import Captions, SourceMetadata
from datasets_prep.split.stage import bucket_rows, sizes_of, split_images
from finetune.config.parse.dump import dump
from finetune.plurals import first_few


@dataclass(frozen=True)
class Described:
    """Metadata, masks, captions and learned scores of the images."""

    metadata: SourceMetadata
    masks: Masks
    captions: Captions
    model_scores: Mapping[str, np.ndarray]  # [N] by name


def write_result(
    context: Context, output: Path, state: State, described: Described, unreadable: Sequence[Rejected]
) -> State:
    """Write the result and return its state. Raises where no image is left."""
    config, selection, findings = context.config, context.selection, context.findings
    masks = masks_of_kept(selection, described.masks)
    rejected = [*unreadable, *unused_masks(selection, described.masks, masks), *selection.rejections()]
    rejected.sort(key=lambda left: os.fsencode(left.source))
    if not selection.is_in.any():
        raise nothing_usable(config, rejected)
    warn_of_notes(context)
    kept = kept_images(context, described, masks)
    marks = lint_marks(kept, config, findings)
    source = context.loader.source
    prepared = Prepared(
        name=source.name,
        kept=kept.rows(),
        rejected=LazyRows(len(rejected), lambda place: asdict(rejected[place])),
        figures=selection.figures,
        notices=findings.warnings,
        lint=marks,
        buckets=bucket_rows(kept),
        options=shown_options(config),
    )
    is_complete = described.captions.is_complete
    state = replace(state, num_pictures=len(kept), rejected=counted(rejected), is_complete=is_complete)
    cache = ContentCache(context.own / "thumbnails.sqlite", findings)

    def thumbnail(name: str) -> SmallImage | None:
        return cached_small_image(name, source.read, context.loader.by_name, config.background, cache)

    try:
        publish(config, output, context.own, state, prepared, kept, source.read, thumbnail)
    finally:
        cache.close()
    return state


def nothing_usable(config: PrepConfig, rejected: Sequence[Rejected]) -> NothingUsable:
    """Return the error that says why no image is left."""
    counts = counts_in_words(counted(rejected))
    these = first_few([f"{each.source} ({each.detail})" for each in rejected])
    return NothingUsable(
        f"source: {', '.join(config.source)} holds no usable image ({counts or 'no files'}). Expected "
        "images such as JPEG, PNG or WebP. Check the path" + (f" and these files: {these}" if rejected else ".")
    )


def kept_images(context: Context, described: Described, masks: Mapping[int, int]) -> Kept:
    """Collect the kept images and their metadata."""
    config, selection, metadata = context.config, context.selection, described.metadata
    indices = np.flatnonzero(selection.is_in)
    return Kept(
        images=selection.images,
        indices=indices,
        captions=described.captions,
        metadata=metadata,
        flags=all_flags(selection.images, config.quality),
        model_scores=described.model_scores,
        reported={index: each for index, each in selection.reported.items() if selection.is_in[each.keeper]},
        sizes=sizes_of(selection.images, indices, config.buckets),
        is_held_out=split_images(selection, metadata, indices, config.split, context.findings),
        masks=masks,
        saved_as=None if config.write.reencode == "no" else (config.write.reencode, config.background),
    )


def warn_of_notes(context: Context) -> None:
    """Warn of notes about the images that are kept."""
    config, selection = context.config, context.selection
    images = selection.images
    is_lost = config.write.reencode == "no" and colour(config.background) != (255, 255, 255)
    lost = f"images judged on {config.background} that training will see on white"
    lost += "; use --write.reencode png to keep the background"
    for index in (index for index in sorted(images.notes) if selection.is_in[index]):
        for note in images.notes[index]:
            context.findings.warn(note, images.sources[index])
            if note == TRANSPARENT and is_lost:
                context.findings.warn(lost, images.sources[index])


def shown_options(config: PrepConfig) -> str:
    """Format as YAML the options that change the result."""
    lines = dump(config).splitlines(keepends=True)
    return "".join(
        line for line in lines if line.partition(":")[0] not in ("output", "workers", "engine", "shard", "work")
    )
