"""The report's part about duplicates, side by side with the kept images."""

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from datasets_prep.records import Prepared
from datasets_prep.report.bounded import Places, key_of
from datasets_prep.report.pieces import (
    Row,
    Thumbnail,
    Thumbnails,
    nothing,
    number_of,
    render,
    text_html,
    texts_of,
    value_text,
)
from finetune.plurals import plural

MOST_CLUSTERS = 100
MOST_DUPLICATES = 5

COPIES = ("near_duplicate", "pixel_duplicate", "exact_duplicate")
"""The reasons that name another image, the least certain first."""


@dataclass(frozen=True)
class Copy:
    """A duplicate as it is shown."""

    row: Row
    thumbnail: Thumbnail | None
    lines: list[str]


@dataclass(frozen=True)
class Group:
    """A kept image with the first of its duplicates."""

    keeper: Row
    thumbnail: Thumbnail | None
    copies: list[Copy]
    num_more: int


class Copies:
    """Groups of duplicates, collected row by row. They take 12 bytes per duplicate, and the rows of those shown."""

    def __init__(self, prepared: Prepared) -> None:
        self._rejected, self._kept = prepared.rejected, prepared.kept
        self._keys, self._numbers = array("Q"), array("I")
        self._doubts: dict[str, tuple[int, float]] = {}

    def add_rejected(self, place: int, row: Row) -> None:
        if row.get("reason") in COPIES and row.get("duplicate_of") is not None:
            self._add(place, row)

    def add_kept(self, place: int, row: Row) -> None:
        if row.get("near_duplicate_of") is not None:
            self._add(len(self._rejected) + place, row)

    def _add(self, number: int, row: Row) -> None:
        keeper = str(row["duplicate_of"] if "reason" in row else row["near_duplicate_of"])
        self._keys.append(key_of(keeper))
        self._numbers.append(number)
        self._doubts[keeper] = min(_doubt(row), self._doubts.get(keeper, (len(COPIES), 0.0)))
        if len(self._doubts) >= 4 * MOST_CLUSTERS:  # one that falls out here comes back with a doubtful enough copy
            self._doubts = {keeper: self._doubts[keeper] for keeper in self._most_doubtful()}

    def _most_doubtful(self) -> list[str]:
        return heapq.nsmallest(MOST_CLUSTERS, self._doubts, key=lambda keeper: (self._doubts[keeper], keeper))

    def html(self, places: Places, thumbnails: Thumbnails) -> tuple[int, Markup]:
        """Show the most doubtful groups; also count all groups."""
        keys = np.frombuffer(self._keys, np.uint64)
        num = len(np.unique(keys))
        if not num:
            return 0, nothing("No image repeats another.")
        shown = self._most_doubtful()
        groups = []
        for keeper, place in zip(shown, places.of(shown).tolist(), strict=True):
            row = self._kept[place] if place >= 0 else {"source": keeper}
            copies = np.frombuffer(self._numbers, np.uint32)[keys == key_of(keeper)]
            rows = (self._row(int(number)) for number in copies)
            first = heapq.nsmallest(MOST_DUPLICATES, rows, key=lambda row: (_score(row), str(row["source"])))
            groups.append(_group(row, first, len(copies), thumbnails))
        note = "The kept image is on the left. Point at a copy, or hold it, to see the kept one in its place."
        note += self._said_of_others(keys, shown)
        return num, render("duplicates.html", "clusters", groups, note)

    def _said_of_others(self, keys: np.ndarray, shown: Sequence[str]) -> str:
        """Say which listings have the duplicates that are not shown."""
        is_other = ~np.isin(keys, np.array([key_of(keeper) for keeper in shown], np.uint64))
        others = np.frombuffer(self._numbers, np.uint32)[is_other]
        if not len(others):
            return ""
        num_left_out = int((others < len(self._rejected)).sum())
        places = {"left out in rejected.jsonl": num_left_out, "kept in metadata.jsonl": len(others) - num_left_out}
        listed = " and ".join(f"{num:,} {place}" for place, num in places.items() if num)
        groups = plural(len(np.unique(keys[is_other])), "more group")
        return f" The {len(shown)} most doubtful groups are shown; of {groups} the duplicates are listed: {listed}."

    def _row(self, number: int) -> Row:
        num = len(self._rejected)
        return self._rejected[number] if number < num else self._kept[number - num]


def _score(row: Row) -> float:
    if "reason" not in row:
        return number_of(row, "near_duplicate_score")
    return number_of(row, "score") if row.get("score") is not None else 1.0


def _doubt(row: Row) -> tuple[int, float]:
    """Order rows by doubt: near duplicates first, lowest score first."""
    return (COPIES.index(str(row["reason"])) if "reason" in row else 0, _score(row))


def _group(keeper: Row, copies: Sequence[Row], num_copies: int, thumbnails: Thumbnails) -> Group:
    thumbnail = thumbnails.of(str(keeper["source"]))
    shown = []
    for row in copies:
        said = f"{str(row['reason']).replace('_', ' ')}, left out" if "reason" in row else "near duplicate, kept"
        lines = [f"{said}, score {value_text(_score(row))}", text_html(row.get("detail", ""))]
        if row["source"] in texts_of(keeper, "caption_sources"):
            lines.append("its caption was taken over")
        shown.append(Copy(row, thumbnails.of(str(row["source"])), lines))
    return Group(keeper, thumbnail, shown, num_copies - len(copies))
