"""The training size of every image, and the validation split."""

import functools
from collections.abc import Sequence

import numpy as np

from datasets_prep.config import BucketsConfig, SplitConfig
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.records import BucketRow
from datasets_prep.rows import Kept
from datasets_prep.selection import Selection
from datasets_prep.source_metadata import SourceMetadata
from datasets_prep.split.held_out import folders_of, groups_of, held_out
from finetune.data.images.decode import cover_scale, crop_loss
from finetune.data.listing import Findings
from finetune.data.sizes import bucket_sizes, nearest_size
from finetune.plurals import plural

NUM_EXAMPLES = 6


def sizes_of(images: MeasuredImages, kept: np.ndarray, config: BucketsConfig) -> list[tuple[int, int]]:
    """Return the training size (width, height) of each kept image."""
    sizes = bucket_sizes(config.resolution, config.bucket_step, config.max_aspect)
    nearest = functools.cache(lambda width, height: nearest_size(width, height, sizes))
    return [nearest(int(images.width[index]), int(images.height[index])) for index in kept]


def bucket_rows(kept: Kept) -> list[BucketRow]:
    """Summarize training sizes with images, by rising aspect ratio. The examples are the images that lose most."""
    images = kept.images
    members: dict[tuple[int, int], list[int]] = {}
    for index, size in zip(map(int, kept.indices), kept.sizes, strict=True):
        members.setdefault(size, []).append(index)
    table = []
    for size in sorted(members, key=lambda size: (size[0] / size[1], size)):
        shapes = {index: (int(images.width[index]), int(images.height[index])) for index in members[size]}
        losses = {index: crop_loss(*shape, *size) for index, shape in shapes.items()}
        worst = sorted(losses, key=lambda index: (-losses[index], index))[:NUM_EXAMPLES]
        examples = tuple(images.sources[index] for index in worst)
        upscaled = sum(cover_scale(*shape, *size) > 1 for shape in shapes.values())
        table.append(BucketRow(*size, len(losses), sum(losses.values()) / len(losses), upscaled, examples))
    return table


def split_images(
    selection: Selection,
    metadata: SourceMetadata,
    kept: Sequence[int] | np.ndarray,
    config: SplitConfig,
    findings: Findings,
) -> np.ndarray | None:
    """Mark which kept images [K] are held out; None without a split. Kept near duplicates are on one side, also in
    chains, and so are folders where the option says so."""
    if config.share == 0:
        return None
    place_of = {int(index): place for place, index in enumerate(kept)}
    pairs = [(index, duplicate.keeper) for index, duplicate in selection.reported.items()] + selection.links
    links = [(place_of[left], place_of[right]) for left, right in pairs if left in place_of and right in place_of]
    sources = [selection.images.sources[int(index)] for index in kept]
    folders = folders_of(sources) if config.group == "folder" else None
    groups = groups_of(len(sources), links, folders)
    result = held_out(groups, sources, config.share, config.seed)
    for place, index in enumerate(map(int, kept)):  # what the source says of one image holds for its group
        entry = metadata.special.get(index)
        if entry is not None and entry.split is not None:
            result[groups == groups[place]] = entry.split == "validation"
    if not result.any():
        kind = "split.share: nothing could be held out, for all images belong together"
        findings.warn(kind, plural(len(sources), "image"))
    return result
