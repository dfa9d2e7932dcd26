"""Options of the result: split, training sizes, files."""

from dataclasses import dataclass
from typing import Literal

from datasets_prep.config.checks import not_positive


@dataclass(frozen=True)
class SplitConfig:
    """Images that are held out of training."""

    share: float = 0.0
    """Share of the images with split "validation", 0 to 0.5. Near duplicates are never in both splits."""
    group: Literal["folder", "picture"] = "folder"
    """What is held out together besides near duplicates: folders, where there are several, or nothing else."""
    seed: int = 0
    """Another number holds out other images."""

    def problems(self) -> list[str]:
        """List what is wrong with these options."""
        if 0 <= self.share <= 0.5:
            return []
        return [f"split.share: got {self.share:g}, expected 0 to 0.5."]


@dataclass(frozen=True)
class BucketsConfig:
    """Training sizes that the report counts, as in data options."""

    resolution: int = 512
    """Side of a square image in training."""
    bucket_step: int = 64
    """Sides are multiples of this."""
    max_aspect: float = 2.0
    """Longest aspect ratio."""

    def problems(self) -> list[str]:
        """List what is wrong with these options."""
        if self.bucket_step >= 1 and self.resolution >= self.bucket_step and self.max_aspect >= 1:
            return []
        return [
            f"buckets: got resolution {self.resolution}, bucket_step {self.bucket_step}, max_aspect "
            f"{self.max_aspect:g}; expected a resolution of at least one step, and an aspect from 1."
        ]


@dataclass(frozen=True)
class WriteConfig:
    """The form of the result."""

    format: Literal["auto", "folder", "parquet"] = "auto"
    """folder writes one file per image, parquet shards of the original bytes; auto writes shards above 10,000 images.
    """
    shard_mb: float = 256.0
    """Size of a shard."""
    txt: bool = False
    """Write a .txt file with the captions beside every image, for other trainers; folder only."""
    reencode: Literal["no", "png", "webp"] = "no"
    """no keeps the original bytes; otherwise images are saved again without loss, upright and in sRGB."""

    def problems(self) -> list[str]:
        """List what is wrong with these options."""
        found = not_positive("write", shard_mb=self.shard_mb)
        if self.txt and self.format == "parquet":
            found.append("write.txt: text files belong beside images. Set write.format to folder.")
        return found
