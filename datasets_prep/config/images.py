"""Options that decide which images are kept."""

from dataclasses import dataclass
from typing import Literal

from datasets_prep.config.checks import not_positive, not_share

FLAGS = ("small", "long", "dark", "light", "blurred", "upscaled", "compressed", "blocks", "border", "animated")
"""Flags that images may have and still be kept."""


@dataclass(frozen=True)
class LimitsConfig:
    """Limits of a single file. A file that exceeds them is rejected, and the rest continues."""

    pixels: int = 100 * 2**20
    """Most pixels of an image; its header is checked before it is decoded."""
    side: int = 32768
    """Longest side in pixels."""
    file_mb: float = 500.0
    """Largest file."""
    seconds: float = 30.0
    """Longest time for reading and measuring one file."""
    memory_gb: float = 4.0
    """Address space that a decoding process may add to what it starts with."""

    def problems(self) -> list[str]:
        """List what is wrong with these options."""
        found = not_positive("limits", side=self.side, file_mb=self.file_mb, seconds=self.seconds)
        found += not_positive("limits", memory_gb=self.memory_gb)
        if self.file_mb > 500:  # above it no part of the project reads an image
            found.append(f"limits.file_mb: got {self.file_mb:g}, expected at most 500.")
        if not 1 <= self.pixels <= 100 * 2**20:  # above it finetune.data.images.decode refuses, and so would training
            found.append(f"limits.pixels: got {self.pixels}, expected 1 to {100 * 2**20} (as in training).")
        return found


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds for rejecting images, and for flagging those that stay."""

    min_side: int = 64
    """Images with a side of fewer pixels are left out."""
    max_aspect: float = 8.0
    """Images longer than this many times their width, or wider, are left out."""
    min_deviation: float = 4.0
    """Images whose channels deviate less from their means, in levels of 255, show nothing and are left out."""
    flag_side: int = 256
    """A side of fewer pixels is flagged as small."""
    flag_aspect: float = 4.0
    """A longer aspect is flagged as long."""
    flag_dark: float = 25.0
    """A mean brightness below, in levels of 255, is flagged as dark."""
    flag_light: float = 245.0
    """A mean brightness above is flagged as light; drawings on white are often so."""
    flag_blurred: float = 0.42
    """Detail below is flagged as blurred: the share of the image's own resolution that its edges use, 0 to 1."""
    flag_upscaled: float = 0.56
    """A spectrum that ends below this share of the resolution is flagged as upscaled: always after enlarging four
    times, in a quarter of the cases after enlarging twice.
    """
    flag_jpeg_quality: int = 50
    """A JPEG saved with a lower quality is flagged as compressed."""
    flag_blocks: float = 1.45
    """Steps at every eighth pixel this many times those elsewhere are flagged as blocks, in any format."""
    flag_border: float = 0.02
    """Borders of one tone that cover more than this share of a side are flagged as border."""
    reject: tuple[str, ...] = ()
    """Flags whose images are left out too, e.g. blurred blocks."""

    def problems(self) -> list[str]:
        """List what is wrong with these options."""
        found = not_positive("quality", min_side=self.min_side)
        aspects = {"quality.max_aspect": self.max_aspect, "quality.flag_aspect": self.flag_aspect}
        found += [
            f"{name}: got {aspect:g}, expected 1 or more, long side by short side."
            for name, aspect in aspects.items()
            if not aspect >= 1  # nor nan
        ]
        found += not_share("quality", flag_blurred=self.flag_blurred, flag_upscaled=self.flag_upscaled)
        found += not_share("quality", flag_border=self.flag_border)
        unknown = sorted(set(self.reject) - set(FLAGS))
        if unknown:
            found.append(f"quality.reject: got {', '.join(unknown)}, expected some of {', '.join(FLAGS)}.")
        return found


@dataclass(frozen=True)
class DedupConfig:
    """The search for near duplicates, and what happens to them. Exact duplicates are always rejected."""

    level: Literal["off", "fast", "thorough", "embed"] = "fast"
    """fast finds edits of the whole image, centre crops, mirrored and rotated images; thorough also finds off-centre
    crops and small rotations; embed also compares embeddings of a vision model; off finds none.
    """
    near: Literal["auto", "drop", "report"] = "auto"
    """drop keeps the best near duplicate of a group; report only names them; auto drops from 200 images on."""
    embed_model: str | None = None
    """transformers vision model (folder or Hub id) of the level embed, e.g. facebook/dinov2-base."""
    embed_similarity: float = 0.6
    """Cosine from which level embed compares two images."""

    def problems(self) -> list[str]:
        """List what is wrong with these options."""
        found = not_share("dedup", embed_similarity=self.embed_similarity)
        if (self.level == "embed") != (self.embed_model is not None):
            found.append(
                f"dedup: got level {self.level} and embed_model {self.embed_model}, expected both or neither. "
                "Set dedup.level to embed and dedup.embed_model to a vision model."
            )
        return found
