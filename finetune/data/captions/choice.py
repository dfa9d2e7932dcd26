"""The texts that training may draw for an image, and the draw. Both are the same in every run."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class CaptionOptions:
    """Options that turn captions into prompts."""

    dropout: float = 0.0
    """Share of samples, 0 to 1, that get the empty prompt."""
    template: str = "{caption}"
    """Text around every caption, with {caption} in its place. Shuffling never moves the template's words."""
    shuffle_tags: bool = False
    """Whether the tags of a caption change their order."""
    keep_tags: int = 0
    """The first tags that stay in place."""
    num_shuffles: int = 4
    """Orders to draw from, per caption."""
    tag_separator: str = ","
    """Between two tags."""

    def __post_init__(self) -> None:
        assert 0 <= self.dropout <= 1 and self.keep_tags >= 0 and self.num_shuffles >= 1 and self.tag_separator, self


def caption_variants(captions: tuple[str, ...], options: CaptionOptions) -> tuple[str, ...]:
    """Return every text that `draw_caption` may return but the empty one. Each is there once, in a stable order."""
    num_orders = options.num_shuffles if options.shuffle_tags else 1
    return tuple(
        dict.fromkeys(_variant(caption, order, options) for caption in captions for order in range(num_orders))
    )


def draw_caption(captions: tuple[str, ...], options: CaptionOptions, *, u: float, drop_u: float) -> str:
    """Return the empty prompt if drop_u < dropout, else one of `caption_variants`. u and drop_u are in [0, 1). Each
    caption is equally likely, and each of its orders, also where two of them happen to give the same text."""
    assert captions and 0 <= u < 1, (captions, u)
    if drop_u < options.dropout:
        return ""
    place = u * len(captions)
    index = int(place)
    order = int((place - index) * options.num_shuffles)
    return _variant(captions[index], order, options)


def _variant(caption: str, order: int, options: CaptionOptions) -> str:
    text = _reordered(caption, order, options) if options.shuffle_tags else caption
    return options.template.replace("{caption}", text)


def _reordered(caption: str, order: int, options: CaptionOptions) -> str:
    """Put a caption's tags in order number `order`. A hash sorts them, independent of any library's random stream."""
    tags = [tag.strip() for tag in caption.split(options.tag_separator)]
    tags = [tag for tag in tags if tag]
    kept, free = tags[: options.keep_tags], tags[options.keep_tags :]
    if len(free) < 2:
        return caption

    def rank(place: int) -> bytes:
        return hashlib.sha256(f"{order}\0{place}\0{caption}".encode()).digest()

    shuffled = [free[place] for place in sorted(range(len(free)), key=rank)]
    return f"{options.tag_separator} ".join(kept + shuffled)
