"""The training images and held-out images that drawings are compared with. Axes: N images, h w pixels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune.config.evaluate import MOST_IMAGES, ScoredDataConfig
from finetune.config.mask import NO_MASKS
from finetune.config.outputs import ValidationConfig
from finetune.config.sections import DataConfig
from finetune.data.class_images import instance_images
from finetune.data.folders import read_folders
from finetune.data.images.decode import resize_and_crop
from finetune.data.manifest import Manifest, Record, configured_manifest
from finetune.run_folder.options import held_out_indices


@dataclass(frozen=True)
class References:
    """Images of the dataset at the size of the drawings."""

    training: np.ndarray
    """[N h w 3], whole numbers up to 255."""
    held_out: np.ndarray
    """[N h w 3], perhaps none."""
    names: tuple[str, ...]
    """File names of the training images."""


def read_scored_manifest(config: ScoredDataConfig) -> Manifest:
    """Read the dataset as training did."""
    data = DataConfig(
        folder=config.folder,
        folders=config.folders,
        image_column=config.image_column,
        caption_column=config.caption_column,
        caption_lines=config.caption_lines,
        keep_rating=config.keep_rating,
        folder_repeats=config.folder_repeats,
        follow_links=config.follow_links,
        trigger=config.trigger,
        expand_syntax=config.expand_syntax,
    )
    unread = "data.captions is none"
    if not config.folders:
        return configured_manifest(data, NO_MASKS, config.captions, unread)
    validation = ValidationConfig(fraction=config.validation_fraction, every=1)
    sources = config.captions, config.captions
    manifest = read_folders(data, NO_MASKS, sources, unread, lambda each: held_out_indices(each, validation))
    records, _ = instance_images(manifest.records, ())
    return replace(manifest, records=records)


def held_out_of(manifest: Manifest, config: ScoredDataConfig) -> set[int]:
    """Find the images that training held out."""
    return held_out_indices(manifest.records, ValidationConfig(fraction=config.validation_fraction, every=1))


def read_references(manifest: Manifest, held_out: set[int], most: int, size: int) -> References:
    """Decode training images and held-out images, at most so many each. They are cut at their centre."""
    trained = [record for index, record in enumerate(manifest.records) if index not in held_out]
    shown = [record for index, record in enumerate(manifest.records) if index in held_out]
    if len(trained) < 2:
        raise ValueError(
            f"data.folder: {manifest.location} has {len(trained)} training images, expected two or more. Lower "
            "data.validation_fraction, or name the folder that was trained on."
        )
    chosen, others = choice_of(trained, most), choice_of(shown, most)
    return References(
        pixels_of(manifest, chosen, size),
        pixels_of(manifest, others, size),
        tuple(record.file_name for record in chosen),
    )


def read_training_images(manifest: Manifest, held_out: Collection[int], size: int) -> References:
    """Decode the images of a run, without the class images of DreamBooth."""
    records, places = instance_images(manifest.records, held_out)
    return read_references(replace(manifest, records=records), places, MOST_IMAGES, size)


def choice_of(records: Sequence[Record], most: int) -> list[Record]:
    """Choose records by their content, in the order of the dataset."""
    kept = {record.sha256 for record in sorted(records, key=lambda each: each.sha256)[:most]}
    found: dict[str, Record] = {}
    for record in records:
        if record.sha256 in kept:
            found.setdefault(record.sha256, record)  # the same bytes twice are one image
    return list(found.values())


def pixels_of(manifest: Manifest, records: Sequence[Record], size: int) -> np.ndarray:
    """Decode images to whole numbers [N size size 3]."""
    from finetune.batches.pixels import open_record  # torch takes a while to load

    found = [
        resize_and_crop(
            open_record(manifest.source, record, (size, size), manifest.kept), size, size, left=0.5, top=0.5, flip=False
        )
        for record in records
    ]
    return np.stack(found) if found else np.zeros((0, size, size, 3), np.uint8)
