"""The report's parts about captions: problems, and every caption."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from datasets_prep.records import LintMark, Prepared
from datasets_prep.report.bounded import Places
from datasets_prep.report.pieces import Row, Thumbnail, Thumbnails, name_html, nothing, number_of, render, texts_of
from datasets_prep.report.words import WORD
from finetune.plurals import plural

MOST_CAPTIONS = 5000
MOST_LETTERS_OF_ONE = 4000
MOST_MARKS = 60
MOST_MARKED = 12
MOST_DRAWN_AT_ONCE = 500
"""Above this number browsers lay out only the captions in view."""


@dataclass(frozen=True)
class ShownMark:
    """A problem of some captions, with the first of their images."""

    kind: str
    detail: str
    num: int
    shown: Sequence[tuple[Row, Thumbnail | None]]


def lint(prepared: Prepared, places: Places, thumbnails: Thumbnails) -> Markup:
    """List the problems of captions, with a few images of each."""
    if not prepared.lint:
        return nothing("Nothing to mend about the captions.")
    marks = [_mark(mark, prepared.kept, places, thumbnails) for mark in prepared.lint[:MOST_MARKS]]
    return render("captions.html", "lint", marks, len(prepared.lint) - len(marks))


def _mark(mark: LintMark, kept: Sequence[Row], places: Places, thumbnails: Thumbnails) -> ShownMark:
    first = mark.sources[:MOST_MARKED]
    shown = [
        (kept[place] if place >= 0 else {"source": source}, thumbnails.of(source))
        for source, place in zip(first, places.of(first).tolist(), strict=True)
    ]
    return ShownMark(mark.kind, mark.detail, len(mark.sources), shown)


def captions(prepared: Prepared, places: Places, is_marked: np.ndarray, thumbnails: Thumbnails, room: int) -> Markup:
    """List captions for searching, in about `room` bytes. Where there are too many, those of images that the report
    shows elsewhere come first, then the marked ones; `is_marked` [N] tells which rows have problems."""
    kinds = list(dict.fromkeys(mark.kind for mark in prepared.lint))
    wanted = _by_need(places, is_marked, thumbnails)
    rows = {index: prepared.kept[index] for index in wanted}
    marks: dict[str, list[str]] = {str(row["source"]): [] for row in rows.values()}
    for mark in prepared.lint:
        for source in mark.sources:
            if source in marks:
                marks[source].append(mark.kind)
    tags = _Tags(kinds)
    lines: dict[int, Markup] = {}
    for index, row in rows.items():
        own = list(dict.fromkeys(marks[str(row["source"])]))
        lines[index] = _caption(row, own, tags.of(row, own), thumbnails)
        room -= len(lines[index].encode("utf-8", "replace"))
        if room < 0:
            break
    more = len(prepared.kept) - len(lines)
    are_more = plural(more, "more caption is", "more captions are")
    note = f"{are_more} in metadata.jsonl; the marked ones are shown first." if more else ""
    listed = [line for _, line in sorted(lines.items())]
    return render("captions.html", "captions", listed, tags.options, len(lines) > MOST_DRAWN_AT_ONCE, note)


def _by_need(places: Places, is_marked: np.ndarray, thumbnails: Thumbnails) -> list[int]:
    """Choose the rows to show, the most important first."""
    rank = np.where(is_marked, np.uint8(1), np.uint8(2))
    rank[places.having([list(thumbnails.sources)])] = 0
    return np.concatenate([np.flatnonzero(rank == each)[:MOST_CAPTIONS] for each in range(3)])[:MOST_CAPTIONS].tolist()


class _Tags:
    """Filters for captions: short names for the rows, and counts."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._counts: dict[str, int] = {}
        self._short: dict[str, str] = {}
        for kind in kinds[:MOST_MARKS]:
            self._noted(f"lint: {kind}", 0)

    def of(self, row: Row, kinds: Sequence[str]) -> str:
        own = [f"lint: {kind}" for kind in kinds] + [f"flag: {flag}" for flag in texts_of(row, "flags")]
        own += [f"{key.replace('_', ' ')}: {row[key]}" for key in ("caption_from", "split") if row.get(key)]
        return " ".join(self._noted(tag, 1) for tag in own)

    def _noted(self, tag: str, num: int) -> str:
        self._counts[tag] = self._counts.get(tag, 0) + num
        return self._short.setdefault(tag, f"g{len(self._short)}")

    @property
    def options(self) -> list[tuple[str, str, int]]:
        """List the choices: short name, name, count."""
        return [(self._short[tag], tag, count) for tag, count in sorted(self._counts.items()) if count]


def _caption(row: Row, kinds: Sequence[str], tags: str, thumbnails: Thumbnails) -> Markup:
    text = str(row.get("text", ""))
    taken_over = [name for name in texts_of(row, "caption_sources") if name not in ("", row["source"])]
    facts = [
        f"{number_of(row, 'width'):.0f} × {number_of(row, 'height'):.0f}",
        plural(len(WORD.findall(text)), "word"),
        str(row.get("caption_from", "")),
        *(Markup("caption of {}").format(name_html(name)) for name in dict.fromkeys(taken_over)),
        str(row.get("split", "")),
    ]
    thumbnail, others = thumbnails.of(str(row["source"])), texts_of(row, "captions_alt")
    names, most = texts_of(row, "flags"), MOST_LETTERS_OF_ONE
    return render("captions.html", "line", row, thumbnail, text, others, kinds, names, tags, facts, most)
