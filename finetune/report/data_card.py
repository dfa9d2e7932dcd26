"""The data card of a run, as its report shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.report.rows import finite


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
