"""The data card, some training images, and the preparation's report."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from finetune.data.folders import labels
from finetune.data.images.decode import open_rgb
from finetune.data.visible_files import CONDITION_SUFFIX, LIKELY_MASK, MASK_SUFFIX, FolderSource, is_image_name
from finetune.files import may_read
from finetune.json_text import parse_json
from finetune.report.gallery import SmallPreview, images_in, small_copy, small_image, spread
from finetune.report.rows import finite, objects, whole
from finetune.report.scores import Scored

MOST_IMAGES = 8
MOST_LISTED = 5_000
"""Lines of a listing, or files of a folder, that are looked at."""
SIDE = 112


@dataclass(frozen=True)
class CardBucket:
    """A bucket of the data card; texts are as they were read."""

    width: object
    height: object
    num_images: float
    share: float
    """Of the largest bucket's images."""
    crop_loss: float | None
    num_upscaled: object


@dataclass(frozen=True)
class TrainingImage:
    """An image that was trained on."""

    name: str
    image: SmallPreview


@dataclass(frozen=True)
class RepeatedImage:
    """A drawn image beside the training image that it repeats."""

    prompt: str
    seed: int
    drawn: SmallPreview
    training: TrainingImage


@dataclass(frozen=True)
class Card:
    """The data that the run was trained on."""

    facts: list[tuple[str, object]]
    warnings: list[object]
    buckets: list[CardBucket]


def data_card(card: dict[str, Any]) -> Card:
    """Return the parts of data_card.json that the report shows."""
    counts = (
        f"{card.get('num_pictures', '?')} images: {card.get('num_train', '?')} to train on, "
        f"{card.get('num_validation', '?')} held out"
    )
    captions = card.get("captions") or {}
    facts = [
        ("location", card.get("location", "")),
        ("images", counts),
        ("captions", f"{captions.get('num', '?')}, at most {captions.get('most_per_picture', '?')} per image"),
        ("fingerprint", card.get("fingerprint", "")),
    ]
    for each in objects(card.get("folders")):
        kind = "class images" if each.get("is_class") else "images"
        share = finite(each.get("share")) or 0.0
        facts.append((f"folder {each.get('label')}", f"{each.get('num_images')} {kind}, {share:.1%} of the samples"))
    if parameters := card.get("parameters"):
        facts.append(("parameters", f"{parameters['trained']:,} trained, {parameters['frozen']:,} frozen"))
    return Card(facts, list(card.get("warnings") or []), buckets(card.get("buckets") or []))


def buckets(read: Sequence[dict[str, object]]) -> list[CardBucket]:
    """Return the buckets with their shares of the largest."""
    sizes = [finite(bucket.get("num_pictures")) or 0.0 for bucket in read]
    return [
        CardBucket(
            width=bucket.get("width"),
            height=bucket.get("height"),
            num_images=size,
            share=size / (max(sizes) or 1),
            crop_loss=finite(bucket.get("crop_loss_mean")),
            num_upscaled=bucket.get("num_upscaled", ""),
        )
        for bucket, size in zip(read, sizes, strict=True)
    ]


def data_folders(data: Mapping[str, Any]) -> dict[str, Path]:
    """Map the first part of file names to training folders. It is "" for one folder."""
    if data.get("folder"):
        return {"": Path(str(data["folder"]))}
    listed = [str(each.get("folder", "")) for each in objects(data.get("folders"))]
    return dict(zip(labels(listed), map(Path, listed), strict=True))


def training_images(folders: Mapping[str, Path]) -> list[TrainingImage]:
    """Return a few training images. They are evenly spread; tables are not opened."""
    found: list[TrainingImage] = []
    for label, folder in folders.items():
        names = list(itertools.islice(names_in(folder), MOST_LISTED)) if folder.is_dir() else []
        for place in spread(range(len(names)), max(1, MOST_IMAGES // len(folders))):
            name = f"{label}/{names[place]}" if label else names[place]
            if (image := training_image(folders, name)) is not None:
                found.append(image)
    return found[:MOST_IMAGES]


def training_image(folders: Mapping[str, Path], name: str) -> TrainingImage | None:
    """Read one image by its name in the run. It is None where it cannot be read."""
    label, _, rest = ("", "", name) if "" in folders else name.partition("/")
    if label not in folders:
        return None
    try:
        image = open_rgb(FolderSource(str(folders[label])).read(rest), draft=(SIDE, SIDE))
    except (OSError, ValueError):
        return None
    return TrainingImage(name, small_image(image, SIDE, SIDE))


def is_inside(name: object) -> bool:
    """Tell if a name is that of a file within its folder."""
    path = PurePosixPath(name if isinstance(name, str) else "")
    return bool(path.name) and ".." not in path.parts and not path.is_absolute()


def names_in(folder: Path) -> Iterator[str]:
    """Yield the names of training images. They are those of the listing, else all images in the folder."""
    listing = folder / "metadata.jsonl"
    if not listing.is_file() or not may_read(listing):
        yield from sorted(itertools.islice(image_names(folder), MOST_LISTED))
        return
    with listing.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = parse_json(line)
            except ValueError:
                continue
            name = row.get("file_name") if isinstance(row, dict) and row.get("split") != "validation" else None
            if is_inside(name):
                yield str(name)


def image_names(folder: Path) -> Iterator[str]:
    """Yield the images of a folder and of those in it. Masks are omitted."""
    for place, _, names in os.walk(folder):
        for name in names:
            stem = name.rpartition(".")[0]
            is_mask = stem.endswith((MASK_SUFFIX, CONDITION_SUFFIX)) or re.search(LIKELY_MASK, stem)
            if is_image_name(name) and not name.startswith(".") and not is_mask:
                yield (Path(place) / name).relative_to(folder).as_posix()


def repeated_images(scored: Scored, folders: Mapping[str, Path]) -> list[RepeatedImage]:
    """Return the chosen step's repetitions of training images, the nearest first."""
    step = scored.chosen
    if step is None or step.images is None or not step.repeated_images:
        return []
    drawn, found = images_in(step.images), []
    for each in objects(step.scores["memorisation"].detail.get("copies")):
        prompt, seed, name = whole(each.get("prompt")), whole(each.get("seed")), each.get("training_image")
        if prompt is None or seed is None or not is_inside(name) or prompt >= len(scored.prompts):
            continue
        image, original = small_copy(drawn.get((prompt, seed)), SIDE, SIDE), training_image(folders, str(name))
        if image is not None and image.data and original is not None:
            found.append(RepeatedImage(scored.prompts[prompt][0], seed, image, original))
        if len(found) == MOST_IMAGES:
            break
    return found


def preparation_report(data: Path, page: Path) -> str | None:
    """Return the address of the preparation's report, relative to a page. It is None without one."""
    report = data / "report.html"
    if not report.is_file():
        return None
    try:
        relative = Path(os.path.relpath(report.absolute(), page.absolute().parent))
    except ValueError:  # another drive on Windows
        return None
    return quote(os.fsencode(relative.as_posix()))
