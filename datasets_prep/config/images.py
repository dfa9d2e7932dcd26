"""Options that decide which images are kept."""

from dataclasses import dataclass
from typing import Annotated, Literal

from finetune.config.facts import Bound, Count, Positive, Share, at_least, between

FLAGS = ("small", "long", "dark", "light", "blurred", "upscaled", "compressed", "blocks", "border", "animated")
"""Flags that images may have and still be kept."""

MOST_PIXELS = 100 * 2**20
"""Above it finetune.data.images.decode refuses an image, and so would training."""
FILE_MB = Bound(lambda value: 0 < value <= 500, "a number above 0, at most 500")
"""Above it no part of the project reads an image."""
ASPECT = at_least(1, "(long side by short side)")


@dataclass(frozen=True)
class LimitsConfig:
    """Limits of a single file. A file that exceeds them is rejected, and the rest continues."""

    pixels: Annotated[int, between(1, MOST_PIXELS, f"1 to {MOST_PIXELS} (as in training)")] = MOST_PIXELS
    """Most pixels of an image; its header is checked before it is decoded."""
    side: Count = 32768
    """Longest side in pixels."""
    file_mb: Annotated[float, FILE_MB] = 500.0
    """Largest file."""
    seconds: Positive = 30.0
    """Longest time for reading and measuring one file."""
    memory_gb: Positive = 4.0
    """Address space that a decoding process may add to what it starts with."""


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds for rejecting images, and for flagging those that stay."""

    min_side: Count = 64
    """Images with a side of fewer pixels are left out."""
    max_aspect: Annotated[float, ASPECT] = 8.0
    """Images longer than this many times their width, or wider, are left out."""
    min_deviation: float = 4.0
    """Images whose channels deviate less from their means, in levels of 255, show nothing and are left out."""
    flag_side: int = 256
    """A side of fewer pixels is flagged as small."""
    flag_aspect: Annotated[float, ASPECT] = 4.0
    """A longer aspect is flagged as long."""
    flag_dark: float = 25.0
    """A mean brightness below, in levels of 255, is flagged as dark."""
    flag_light: float = 245.0
    """A mean brightness above is flagged as light; drawings on white are often so."""
    flag_blurred: Share = 0.42
    """Detail below is flagged as blurred: the share of the image's own resolution that its edges use, 0 to 1."""
    flag_upscaled: Share = 0.56
    """A spectrum that ends below this share of the resolution is flagged as upscaled: always after enlarging four
    times, in a quarter of the cases after enlarging twice."""
    flag_jpeg_quality: int = 50
    """A JPEG saved with a lower quality is flagged as compressed."""
    flag_blocks: float = 1.45
    """Steps at every eighth pixel this many times those elsewhere are flagged as blocks, in any format."""
    flag_border: Share = 0.02
    """Borders of one tone that cover more than this share of a side are flagged as border."""
    reject: tuple[str, ...] = ()
    """Flags whose images are left out too, e.g. blurred blocks."""

    def problems(self) -> list[str]:
        unknown = sorted(set(self.reject) - set(FLAGS))
        return [f"quality.reject: got {', '.join(unknown)}, expected some of {', '.join(FLAGS)}."] if unknown else []


@dataclass(frozen=True)
class DedupConfig:
    """The search for near duplicates, and what happens to them. Exact duplicates are always rejected."""

    level: Literal["off", "fast", "thorough", "embed"] = "fast"
    """fast finds edits of the whole image, centre crops, mirrored and rotated images; thorough also finds off-centre
    crops and small rotations; embed also compares embeddings of a vision model; off finds none."""
    near: Literal["auto", "drop", "report"] = "auto"
    """drop keeps the best near duplicate of a group; report only names them; auto drops from 200 images on."""
    embed_model: str | None = None
    """transformers vision model (folder or Hub id) of the level embed, e.g. facebook/dinov2-base."""
    embed_similarity: Share = 0.6
    """Cosine from which level embed compares two images."""

    def problems(self) -> list[str]:
        if (self.level == "embed") == (self.embed_model is not None):
            return []
        return [
            f"dedup: got level {self.level} and embed_model {self.embed_model}, expected both or neither. "
            "Set dedup.level to embed and dedup.embed_model to a vision model."
        ]
