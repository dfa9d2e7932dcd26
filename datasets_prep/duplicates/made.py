"""The answer to which of two images was made of the other."""

from enum import Enum


class Made(Enum):
    """Which of two images was made of the other."""

    FIRST = 1
    SECOND = 2
    UNKNOWN = 0

    @property
    def swapped(self) -> "Made":
        """The answer for the images in the other order."""
        return {Made.FIRST: Made.SECOND, Made.SECOND: Made.FIRST}.get(self, self)
