"""Options of the result: split, training sizes, files."""

from dataclasses import dataclass
from typing import Annotated, Literal

from finetune.config.facts import ActsWith, Count, Positive, at_least, between


@dataclass(frozen=True)
class SplitConfig:
    """Images that are held out of training."""

    share: Annotated[float, between(0, 0.5, "0 to 0.5")] = 0.0
    """Share of the images with split "validation", 0 to 0.5. Near duplicates are never in both splits."""
    group: Literal["folder", "picture"] = "folder"
    """What is held out together besides near duplicates: folders, where there are several, or nothing else."""
    seed: int = 0
    """Another number holds out other images."""


@dataclass(frozen=True)
class BucketsConfig:
    """Training sizes that the report counts, as in data options."""

    resolution: int = 512
    """Side of a square image in training."""
    bucket_step: Count = 64
    """Sides are multiples of this."""
    max_aspect: Annotated[float, at_least(1)] = 2.0
    """Longest aspect ratio."""

    def problems(self) -> list[str]:
        if self.resolution >= self.bucket_step:
            return []
        return [f"buckets.resolution: got {self.resolution}, expected at least buckets.bucket_step {self.bucket_step}."]


@dataclass(frozen=True)
class WriteConfig:
    """The form of the result."""

    format: Literal["auto", "folder", "parquet"] = "auto"
    """folder writes one file per image, parquet shards of the original bytes; auto writes shards above 10,000 images.
    """
    shard_mb: Positive = 256.0
    """Size of a shard."""
    txt: Annotated[bool, ActsWith("format", "auto", "folder")] = False
    """Write a .txt file with the captions beside every image, for other trainers; folder only."""
    reencode: Literal["no", "png", "webp"] = "no"
    """no keeps the original bytes; otherwise images are saved again without loss, upright and in sRGB."""
