"""Counts with their nouns, so no message says "1 pictures"."""


def plural(num: int, one: str, more: str = "") -> str:
    """Returns "1 image", "2,000 images"."""
    return f"{num:,} {one if num == 1 else more or one + 's'}"
