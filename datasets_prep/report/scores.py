"""The report's part about scores: the worst images of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from datasets_prep.report.bounded import Least
from datasets_prep.report.pieces import Row, Thumbnail, Thumbnails, nothing, render, texts_of, value_text

MOST_WORST = 24

ENDS = {
    "brightness": (("Darkest", False), ("Lightest", True)),
    "deviation": (("Least contrast", False),),
    "entropy": (("Least content", False),),
    "saturation": (("Least colour", False),),
    "detail": (("Least detail", False),),
    "spectrum": (("Most likely enlarged", False),),
    "jpeg_quality": (("Lowest JPEG quality", False),),
    "blocks": (("Strongest blocks", True),),
    "border": (("Widest borders", True),),
    "aesthetic": (("Least aesthetic", False),),
    "nsfw": (("Most likely unsafe", True),),
    "watermark": (("Most likely with a watermark", True),),
    "clip": (("Caption agrees least", False),),
}
"""The worse end of a score; True is the high one. Other scores show both."""

HARMLESS = {"jpeg_quality": 100.0, "border": 0.0, "blocks": 1.0}
"""Values that mean there is nothing to see."""

UNSHOWN = ("frames",)
NUMBERS = (int, float)  # made once, since a million images have a dozen scores each


@dataclass(frozen=True)
class End:
    """The images at one end of a score."""

    title: str
    name: str
    first: str
    last: str
    shown: list[tuple[Row, Thumbnail | None, str, list[str]]]
    """Row, thumbnail, score, flags."""


class Worst:
    """The worst images of every score, collected row by row."""

    def __init__(self, num_pictures: int) -> None:
        self._num = min(MOST_WORST, max(4, num_pictures // 4))
        self._ends: dict[str, list[tuple[str, int, Least]]] = {}

    def add(self, place: int, row: Row) -> None:
        scores = row.get("scores")
        for name, score in scores.items() if isinstance(scores, Mapping) else ():
            if name not in self._ends:
                self._ends[name] = self._new_ends(name)
            if not isinstance(score, NUMBERS):
                continue
            for _, sign, least in self._ends[name]:
                # Few are below the bound, so that the rest is asked of few.
                if sign * score < least.bound and math.isfinite(score) and score != HARMLESS.get(name):
                    least.add(sign * score, place)

    def _new_ends(self, name: str) -> list[tuple[str, int, Least]]:
        if name in UNSHOWN:
            return []
        ends = ENDS.get(name, ((f"Lowest {name}", False), (f"Highest {name}", True)))
        return [(title, -1 if is_high else 1, Least(self._num)) for title, is_high in ends]

    def html(self, kept: Sequence[Row], thumbnails: Thumbnails) -> Markup:
        order = list(ENDS)
        names = sorted(self._ends, key=lambda name: (order.index(name) if name in ENDS else len(order), name))
        ends = []
        for name in names:
            for title, _, least in self._ends[name]:
                rows = [kept[place] for place in least.places()]
                if rows:
                    ends.append(_end(title, name, rows, thumbnails))
        return render("scores.html", "worst", ends) if ends else nothing("No scores.")


def _end(title: str, name: str, rows: Sequence[Row], thumbnails: Thumbnails) -> End:
    values = [value_text(_score_of(row, name)) for row in rows]
    shown = [
        (row, thumbnails.of(str(row["source"])), value, texts_of(row, "flags"))
        for row, value in zip(rows, values, strict=True)
    ]
    return End(title, name, values[0], values[-1], shown)


def _score_of(row: Row, name: str) -> float | None:
    """Read a score of an image; None if missing or not finite."""
    scores = row.get("scores")
    value = scores.get(name) if isinstance(scores, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
