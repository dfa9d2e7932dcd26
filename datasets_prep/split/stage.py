"""The training size of every image, and the validation split."""

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
    by_shape: dict[tuple[int, int], tuple[int, int]] = {}
    found = []
    for index in kept:
        shape = int(images.width[index]), int(images.height[index])
        if shape not in by_shape:
            by_shape[shape] = nearest_size(*shape, sizes)
        found.append(by_shape[shape])
    return found


def bucket_rows(kept: Kept) -> list[BucketRow]:
    """Summarize training sizes with images, by rising aspect ratio. The examples are the images that lose most."""
    members: dict[tuple[int, int], list[int]] = {}
    for place, size in enumerate(kept.sizes):
        members.setdefault(size, []).append(place)
    table = []
    for size in sorted(members, key=lambda size: (size[0] / size[1], size)):
        shapes = {place: shape_of(kept, place) for place in members[size]}
        losses = {place: crop_loss(*shape, *size) for place, shape in shapes.items()}
        worst = sorted(losses, key=lambda place: (-losses[place], place))[:NUM_EXAMPLES]
        examples = tuple(kept.images.sources[int(kept.indices[place])] for place in worst)
        upscaled = sum(cover_scale(*shape, *size) > 1 for shape in shapes.values())
        table.append(BucketRow(*size, len(losses), sum(losses.values()) / len(losses), upscaled, examples))
    return table


def shape_of(kept: Kept, place: int) -> tuple[int, int]:
    """Return width and height of a kept image."""
    index = int(kept.indices[place])
    return int(kept.images.width[index]), int(kept.images.height[index])


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
        findings.warn(
            "split.share: nothing could be held out, for all images belong together", plural(len(sources), "image")
        )
    return result
