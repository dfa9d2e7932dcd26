"""The report of a preparation: one HTML file that needs no network. Decisions about images can be made in it."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from datasets_prep.records import Prepared
from datasets_prep.report import captions as texts
from datasets_prep.report.bounded import key_of, places_of
from datasets_prep.report.duplicates import Copies
from datasets_prep.report.pieces import MOST_THUMBNAIL_BYTES, Thumbnails, environment, render
from datasets_prep.report.scores import Worst
from datasets_prep.report.sizes import Losses, buckets
from datasets_prep.report.stages import Flags, LeftOut, stages
from datasets_prep.report.thumbnails import SmallImage
from datasets_prep.report.words import Words
from finetune.plurals import plural
from finetune.report.page import around, write_page

MOST_BYTES = 24_000_000
"""Size of the page; captions get what the other parts leave."""
LEAST_CAPTION_BYTES = 1_000_000
MOST_NOTICES = 50
MOST_OPTION_LETTERS = 20_000


def write_report(path: Path, prepared: Prepared, load: Callable[[str], SmallImage | None]) -> Path:
    """Write the report of a preparation and return its path. `load` returns the thumbnail of a `source`, or None where
    it cannot be read; it is called at most once per image, and only for images on the page. The same preparation gives
    the same bytes. Rows may be made on access: all are read once, and a few thousand again to be shown."""
    thumbnails = Thumbnails(load)
    parts = _parts(prepared, thumbnails)
    assets = resources.files("datasets_prep") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    outside = around(f"{prepared.name}: preparation", style=style + thumbnails.rules, script=script)
    pieces = environment().get_template("report.html").generate(outside | parts)
    write_page(path, (piece.replace("\0", "\ufffd") for piece in pieces))  # HTML has no way to write it
    return path


@dataclass(frozen=True)
class Panel:
    """A part of the page, and the number of things in it."""

    name: str
    title: str
    num: int | None
    content: Markup


class _Seen:
    """Summaries of all rows, which are read once. They take 12 bytes per image and 12 per duplicate."""

    def __init__(self, prepared: Prepared) -> None:
        self.copies, self.left_out, self.flags = Copies(prepared), LeftOut(), Flags()
        self.worst, self.words, self.losses = Worst(len(prepared.kept)), Words(len(prepared.kept)), Losses()
        self.num_held_out = 0
        self.caption_sources: Counter[str] = Counter()
        for place, row in enumerate(prepared.rejected):
            self.copies.add_rejected(place, row)
            self.left_out.add(row)
        digest = hashlib.sha256(prepared.name.encode("utf-8", "surrogatepass"))
        keys = array("Q")
        for place, row in enumerate(prepared.kept):
            self.copies.add_kept(place, row)
            self.left_out.add_kept(row)
            self.flags.add(row)
            self.worst.add(place, row)
            self.words.add(place, row)
            self.losses.add(place, row)
            self.num_held_out += row.get("split") == "validation"
            self.caption_sources[str(row.get("caption_from", "unknown"))] += 1
            digest.update(str(row.get("sha256", row.get("source"))).encode("utf-8", "surrogatepass"))
            keys.append(key_of(row["source"]))
        self.places = places_of(keys)
        self.identity = digest.hexdigest()[:16]
        """What tells this set from others in a browser's storage: its content, not where the page lies."""


def _parts(prepared: Prepared, thumbnails: Thumbnails) -> dict[str, Any]:
    seen = _Seen(prepared)
    places = seen.places
    is_marked = places.having([mark.sources for mark in prepared.lint])
    # The thumbnails go to whom asks first, so that the order here is one of need; the page has another.
    num_clusters, copies = seen.copies.html(places, thumbnails)
    worst = seen.worst.html(prepared.kept, thumbnails)
    sizes = buckets(prepared, seen.losses, places, thumbnails)
    lint = texts.lint(prepared, places, thumbnails)
    left_out = seen.left_out.html(thumbnails)
    sections = [
        Panel("stages", "Stages", None, stages(prepared)),
        Panel("copies", "Copies", num_clusters, copies),
        Panel("rejected", "Left out", len(prepared.rejected), left_out),
        Panel("worst", "Worst of every score", None, worst),
        Panel("flags", "Flags", seen.flags.num_flagged, seen.flags.html()),
        Panel("lint", "Captions to mend", len(prepared.lint), lint),
        Panel("words", "Words", None, seen.words.html()),
        Panel("sizes", "Training sizes", len(prepared.buckets), sizes),
        Panel("options", "Options", None, render("options.html", "options", prepared.options, MOST_OPTION_LETTERS)),
    ]
    taken = sum(len(section.content.encode("utf-8", "replace")) for section in sections) + MOST_THUMBNAIL_BYTES
    captions = texts.captions(prepared, places, is_marked, thumbnails, max(MOST_BYTES - taken, LEAST_CAPTION_BYTES))
    sections.insert(7, Panel("list", "Captions", len(prepared.kept), captions))
    num, notices = len(prepared.kept) + len(prepared.rejected), list(prepared.notices)
    if thumbnails.is_full:
        room = f"The page has room for {plural(len(thumbnails.sources), 'image')}; others are shown as empty frames."
        notices.append(room)
    return {
        "identity": seen.identity,
        "name": prepared.name,
        "summary": f"{plural(num, 'file')}: {len(prepared.kept):,} kept, {len(prepared.rejected):,} left out.",
        "notices": notices[:MOST_NOTICES],
        "num_more_notices": len(notices) - MOST_NOTICES,
        "tiles": _tiles(prepared, seen, num_clusters, int(is_marked.sum())),
        "sections": sections,
    }


def _tiles(prepared: Prepared, seen: _Seen, num_clusters: int, num_marked: int) -> list[tuple[str, int]]:
    return [
        ("images to train on", len(prepared.kept) - seen.num_held_out),
        ("held out", seen.num_held_out),
        ("left out", len(prepared.rejected)),
        ("images with copies", num_clusters),
        ("flagged", seen.flags.num_flagged),
        ("captions to mend", num_marked),
        *((f"captions from {name}", count) for name, count in seen.caption_sources.most_common(3)),
    ]
