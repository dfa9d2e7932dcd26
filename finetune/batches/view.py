"""One way to cut a picture."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """One way to cut a picture to its bucket: offsets in [0, 1] of the free margin, and mirrored or not."""

    width: int
    height: int
    left: float
    top: float
    flip: bool
