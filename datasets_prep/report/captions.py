"""The report's parts about captions: what to mend, and every caption."""

from collections.abc import Sequence
from html import escape

import numpy as np

from datasets_prep.records import LintMark, Prepared
from datasets_prep.report.bounded import Places
from datasets_prep.report.pieces import (
    Row,
    Thumbnails,
    card,
    flags_html,
    folded,
    name_html,
    number_of,
    strip,
    text_html,
    texts_of,
    thumbnail_html,
)
from datasets_prep.report.words import WORD
from finetune.plurals import plural
from finetune.report.page import nothing

MOST_CAPTIONS = 5000
MOST_LETTERS_OF_ONE = 4000
MOST_MARKS = 60
MOST_MARKED = 12
MOST_DRAWN_AT_ONCE = 500
"""Above it browsers lay out only the captions in view."""


def lint(prepared: Prepared, places: Places, thumbnails: Thumbnails) -> str:
    """Returns what may be mended about the captions, each with a few of the pictures it concerns."""
    if not prepared.lint:
        return nothing("Nothing to mend about the captions.")
    marks = prepared.lint[:MOST_MARKS]
    parts = [_mark(mark, prepared.kept, places, thumbnails) for mark in marks]
    more = len(prepared.lint) - len(marks)
    note = nothing(f"{plural(more, 'more mark is', 'more marks are')} not shown.") if more else ""
    return f'<div class="card folds">{"".join(parts)}{note}</div>'


def _mark(mark: LintMark, kept: Sequence[Row], places: Places, thumbnails: Thumbnails) -> str:
    cards = []
    first = mark.sources[:MOST_MARKED]
    for source, place in zip(first, places.of(first).tolist(), strict=True):
        row = kept[place] if place >= 0 else {"source": source}
        text = f'<span dir="auto">{text_html(row.get("text", ""), 120)}</span>'
        cards.append(card(row, thumbnail_html(thumbnails.of(source)), [text]))
    more = len(mark.sources) - len(cards)
    if more > 0:
        cards.append(f'<p class="note">and {more:,} more</p>')
    detail = f' <span class="soft" dir="auto">{text_html(mark.detail)}</span>' if mark.detail else ""
    title = f"<b>{escape(mark.kind)}</b> {plural(len(mark.sources), 'picture')}{detail}"
    return folded(title, strip(cards))


def captions(prepared: Prepared, places: Places, is_marked: np.ndarray, thumbnails: Thumbnails, room: int) -> str:
    """Returns the captions as a list that can be searched, of about `room` bytes at most.

    Where there are too many, those stay that the report shows elsewhere, and then the marked ones: `is_marked` [N] says
    of which rows something is to be mended.
    """
    kinds = list(dict.fromkeys(mark.kind for mark in prepared.lint))
    wanted = _by_need(places, is_marked, thumbnails)
    rows = {index: prepared.kept[index] for index in wanted}
    marks: dict[str, list[str]] = {str(row["source"]): [] for row in rows.values()}
    for mark in prepared.lint:
        for source in mark.sources:
            if source in marks:
                marks[source].append(mark.kind)
    tags = _Tags(kinds)
    lines: dict[int, str] = {}
    for index, row in rows.items():
        own = list(dict.fromkeys(marks[str(row["source"])]))
        lines[index] = _caption(row, own, tags.of(row, own), thumbnails)
        room -= len(lines[index].encode("utf-8", "replace"))
        if room < 0:
            break
    filters = (
        '<div class="filters" hidden><input id="search" type="search" placeholder="search captions and names" '
        'aria-label="search captions and names"> <select id="tag" aria-label="show only">'
        f'<option value="">all</option>{tags.options}<option value="dropped">marked drop</option>'
        '<option value="edited">edited</option></select> <span id="found" class="note"></span></div>'
    )
    more = len(prepared.kept) - len(lines)
    are_more = plural(more, "more caption is", "more captions are")
    note = f"{are_more} in metadata.jsonl; the marked ones are shown first." if more else ""
    many = " many" if len(lines) > MOST_DRAWN_AT_ONCE else ""
    listed = "".join(line for _, line in sorted(lines.items()))
    return f'{filters}<div class="rows{many}" id="captions">{listed}</div>{nothing(note) if note else ""}'


def _by_need(places: Places, is_marked: np.ndarray, thumbnails: Thumbnails) -> list[int]:
    """The places of the rows to show, those first that matter most."""
    rank = np.where(is_marked, np.uint8(1), np.uint8(2))
    rank[places.having([list(thumbnails.sources)])] = 0
    return np.concatenate([np.flatnonzero(rank == each)[:MOST_CAPTIONS] for each in range(3)])[:MOST_CAPTIONS].tolist()


class _Tags:
    """What captions can be filtered by, each with a short name that the rows carry, and how many have it."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._counts: dict[str, int] = {}
        self._short: dict[str, str] = {}
        for kind in kinds[:MOST_MARKS]:
            self._noted(f"lint: {kind}", 0)

    def of(self, row: Row, kinds: Sequence[str]) -> str:
        """Returns the short names of what a row has, and counts them."""
        own = [f"lint: {kind}" for kind in kinds] + [f"flag: {flag}" for flag in texts_of(row, "flags")]
        own += [f"{key.replace('_', ' ')}: {row[key]}" for key in ("caption_from", "split") if row.get(key)]
        return " ".join(self._noted(tag, 1) for tag in own)

    def _noted(self, tag: str, num: int) -> str:
        self._counts[tag] = self._counts.get(tag, 0) + num
        return self._short.setdefault(tag, f"g{len(self._short)}")

    @property
    def options(self) -> str:
        """The choices as HTML."""
        return "".join(
            f'<option value="{self._short[tag]}">{text_html(tag)} ({count:,})</option>'
            for tag, count in sorted(self._counts.items())
            if count
        )


def _caption(row: Row, kinds: Sequence[str], tags: str, thumbnails: Thumbnails) -> str:
    text = str(row.get("text", ""))
    others = texts_of(row, "captions_alt")
    more = "".join(f'<p class="alt" dir="auto">{text_html(other, 500)}</p>' for other in others[:4])
    more += f'<p class="alt">and {len(others) - 4:,} more</p>' if len(others) > 4 else ""
    marks = " ".join(f'<span class="mark lint">{escape(kind)}</span>' for kind in kinds)
    others_brought = [name for name in texts_of(row, "caption_sources") if name not in ("", row["source"])]
    facts = [
        name_html(row["source"]),
        f"{number_of(row, 'width'):.0f} × {number_of(row, 'height'):.0f}",
        plural(len(WORD.findall(text)), "word"),
        escape(str(row.get("caption_from", ""))),
        *(f"caption of {name_html(name)}" for name in dict.fromkeys(others_brought)),
        escape(str(row.get("split", ""))),
    ]
    sha256 = row.get("sha256")
    own = f' data-sha="{escape(sha256)}"' if isinstance(sha256, str) else ""
    cut = " data-cut" if len(text) > MOST_LETTERS_OF_ONE else ""  # a text that is cut here must not be edited here
    return (
        f'<div class="pic row"{own} data-tags="{tags}">{thumbnail_html(thumbnails.of(str(row["source"])))}'
        f'<div class="about"><p class="caption" dir="auto"{cut}>{text_html(text, MOST_LETTERS_OF_ONE)}</p>{more}'
        f"<small>{' · '.join(fact for fact in facts if fact)} {marks} {flags_html(row)}</small></div></div>\n"
    )
