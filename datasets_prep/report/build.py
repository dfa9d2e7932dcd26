"""report.html: what a preparation found, in one file that needs no network and takes decisions about pictures."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path

from datasets_prep.records import Prepared
from datasets_prep.report import captions as texts
from datasets_prep.report.bounded import key_of, places_of
from datasets_prep.report.duplicates import Copies
from datasets_prep.report.pieces import MOST_THUMBNAIL_BYTES, Thumbnails, folded, text_html
from datasets_prep.report.scores import Worst
from datasets_prep.report.sizes import Losses, buckets
from datasets_prep.report.stages import Flags, LeftOut, stages
from datasets_prep.report.thumbnails import SmallImage
from datasets_prep.report.words import Words
from finetune.plurals import plural
from finetune.report.page import page, write_page

MOST_BYTES = 24_000_000
"""Size of the page, of which the captions get what the other parts leave."""
LEAST_CAPTION_BYTES = 1_000_000
MOST_NOTICES = 50
MOST_OPTION_LETTERS = 20_000


def write_report(path: Path, prepared: Prepared, load: Callable[[str], SmallImage | None]) -> Path:
    """Writes the report of a preparation and returns its path.

    `load` gives the thumbnail of a `source`, or None where it cannot be read; it is asked at most once for each, and
    for no more than the page holds. The same preparation gives the same bytes. The rows of a preparation may be made
    when they are asked for: they go by once, and a few thousand are asked for again to be shown.
    """
    thumbnails = Thumbnails(load)
    body = _body(prepared, thumbnails)
    assets = resources.files("datasets_prep") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    text = page(f"{prepared.name}: preparation", body, style=style + thumbnails.rules, script=script)
    write_page(path, text.replace("\0", "\ufffd"))  # HTML has no way to write it
    return path


class _Seen:
    """What the parts need of the rows, which go by here once; it grows by 12 bytes a picture and 12 a copy."""

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


def _body(prepared: Prepared, thumbnails: Thumbnails) -> str:
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
        ("stages", "Stages", None, stages(prepared)),
        ("copies", "Copies", num_clusters, copies),
        ("rejected", "Left out", len(prepared.rejected), left_out),
        ("worst", "Worst of every score", None, worst),
        ("flags", "Flags", seen.flags.num_flagged, seen.flags.html()),
        ("lint", "Captions to mend", len(prepared.lint), lint),
        ("words", "Words", None, seen.words.html()),
        ("list", "Captions", len(prepared.kept), ""),
        ("sizes", "Training sizes", len(prepared.buckets), sizes),
        ("options", "Options", None, _options(prepared.options)),
    ]
    taken = sum(len(content.encode("utf-8", "replace")) for *_, content in sections) + MOST_THUMBNAIL_BYTES
    captions = texts.captions(prepared, places, is_marked, thumbnails, max(MOST_BYTES - taken, LEAST_CAPTION_BYTES))
    links = "".join(
        f'<a href="#{name}">{title}{f" <small>{num:,}</small>" if num else ""}</a>' for name, title, num, _ in sections
    )
    filled = "".join(
        f'<section id="{name}"><h2>{title}</h2>{captions if name == "list" else content}</section>\n'
        for name, title, _, content in sections
    )
    room = ""
    if thumbnails.is_full:
        room = f"The page has room for {plural(len(thumbnails.sources), 'picture')}; others are shown as empty frames."
    return (
        f'<header data-set="{seen.identity}"><h1>{text_html(prepared.name)}</h1>'
        f"<p>{_summary(prepared)}</p></header>{_notices([*prepared.notices, *([room] if room else [])])}"
        f"{_tiles(prepared, seen, num_clusters, int(is_marked.sum()))}<nav>{links}</nav>\n{filled}{BAR}"
    )


def _summary(prepared: Prepared) -> str:
    num = len(prepared.kept) + len(prepared.rejected)
    return f"{plural(num, 'file')}: {len(prepared.kept):,} kept, {len(prepared.rejected):,} left out."


def _tiles(prepared: Prepared, seen: _Seen, num_clusters: int, num_marked: int) -> str:
    tiles = [
        ("pictures to train on", len(prepared.kept) - seen.num_held_out),
        ("held out", seen.num_held_out),
        ("left out", len(prepared.rejected)),
        ("pictures with copies", num_clusters),
        ("flagged", seen.flags.num_flagged),
        ("captions to mend", num_marked),
        *((f"captions from {name}", count) for name, count in seen.caption_sources.most_common(3)),
    ]
    cells = "".join(f'<div class="tile"><span>{escape(name)}</span><b>{count:,}</b></div>' for name, count in tiles)
    return f'<div class="tiles">{cells}</div>'


def _notices(notices: list[str]) -> str:
    if not notices:
        return ""
    lines = "".join(f"<li>{text_html(notice, 1000)}</li>" for notice in notices[:MOST_NOTICES])
    more = len(notices) - MOST_NOTICES
    lines += f"<li>and {more:,} more</li>" if more > 0 else ""
    return f'<div class="banner"><ul>{lines}</ul></div>'


def _options(options: str) -> str:
    if not options:
        return '<p class="note">Not recorded.</p>'
    content = folded("All options", f"<pre>{text_html(options, MOST_OPTION_LETTERS)}</pre>")
    return f'<div class="card folds">{content}</div>'


BAR = """
<p class="note noscript">Deciding about pictures needs scripts, which this browser does not run; all else works.</p>
<div id="bar" hidden>
  <div id="what"><b id="current">No picture chosen</b><span id="state" role="status"></span></div>
  <div id="buttons">
    <button id="previous" title="k">Previous</button><button id="next" title="j">Next</button>
    <button id="keep" title="a">Keep</button><button id="drop" title="x">Drop</button>
    <button id="edit" title="e">Edit</button><button id="undo" title="u">Undo</button>
    <button id="enlarge" title="o">Large</button><button id="download">Download decisions.jsonl</button>
  </div>
  <p id="keys"><kbd>j</kbd> <kbd>k</kbd> next, previous <kbd>a</kbd> keep <kbd>x</kbd> drop <kbd>e</kbd> edit caption
    <kbd>u</kbd> undo <kbd>o</kbd> large <kbd>/</kbd> search</p>
</div>
<dialog id="editor"><form method="dialog"><label for="text">Caption of <b id="edited"></b></label>
  <textarea id="text" rows="7" maxlength="20000" dir="auto"></textarea>
  <div><button id="save" value="save">Save</button><button value="cancel" formnovalidate>Cancel</button>
  <small>Ctrl+Enter saves, Esc cancels</small></div></form></dialog>
<dialog id="large"><form method="dialog"><div id="view"></div><button>Close</button></form></dialog>
"""
"""What the script shows and fills; without it, it stays hidden."""
