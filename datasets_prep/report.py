"""report.html: what a preparation found, in one file that needs no network and takes decisions about pictures."""

import hashlib
from collections import Counter
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path

from PIL import Image

from datasets_prep import report_parts as parts
from datasets_prep import report_texts as texts
from datasets_prep.records import Prepared
from datasets_prep.report_copies import clusters
from datasets_prep.report_pieces import MOST_THUMBNAIL_BYTES, Thumbnails, folded, plural, text_html
from datasets_prep.report_sizes import buckets
from finetune.evaluation.page import page, write_page

MOST_BYTES = 24_000_000
"""Size of the page, of which the captions get what the other parts leave."""
LEAST_CAPTION_BYTES = 1_000_000
MOST_NOTICES = 50
MOST_OPTION_LETTERS = 20_000


def write_report(path: Path, prepared: Prepared, load: Callable[[str], Image.Image | None]) -> Path:
    """Writes the report of a preparation and returns its path.

    `load` gives the picture of a `source`, or None where it cannot be read; it is asked at most once for each, and for
    no more than the page holds. The same preparation gives the same bytes.
    """
    thumbnails = Thumbnails(load)
    body = _body(prepared, thumbnails)
    assets = resources.files("datasets_prep") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    text = page(f"{prepared.name}: preparation", body, style=style + thumbnails.rules, script=script)
    write_page(path, text.replace("\0", "\ufffd"))  # HTML has no way to write it
    return path


def _body(prepared: Prepared, thumbnails: Thumbnails) -> str:
    # The thumbnails go to whom asks first, so that the order here is one of need; the page has another.
    num_clusters, copies = clusters(prepared, thumbnails)
    num_flagged, flags = parts.flags(prepared)
    worst = parts.worst(prepared, thumbnails)
    sizes = buckets(prepared, thumbnails)
    lint = texts.lint(prepared, thumbnails)
    rejected = parts.rejected(prepared, thumbnails)
    sections = [
        ("stages", "Stages", None, parts.stages(prepared)),
        ("copies", "Copies", num_clusters, copies),
        ("rejected", "Left out", len(prepared.rejected), rejected),
        ("worst", "Worst of every score", None, worst),
        ("flags", "Flags", num_flagged, flags),
        ("lint", "Captions to mend", len(prepared.lint), lint),
        ("words", "Words", None, texts.words(prepared)),
        ("list", "Captions", len(prepared.kept), ""),
        ("sizes", "Training sizes", len(prepared.buckets), sizes),
        ("options", "Options", None, _options(prepared.options)),
    ]
    taken = sum(len(content.encode("utf-8", "replace")) for *_, content in sections) + MOST_THUMBNAIL_BYTES
    captions = texts.captions(prepared, thumbnails, max(MOST_BYTES - taken, LEAST_CAPTION_BYTES))
    links = "".join(
        f'<a href="#{name}">{title}{f" <small>{num:,}</small>" if num else ""}</a>' for name, title, num, _ in sections
    )
    filled = "".join(
        f'<section id="{name}"><h2>{title}</h2>{captions if name == "list" else content}</section>\n'
        for name, title, _, content in sections
    )
    room = ""
    if thumbnails.is_full:
        room = f"The page has room for {len(thumbnails.sources):,} pictures; others are shown as empty frames."
    return (
        f'<header data-set="{_identity(prepared)}"><h1>{text_html(prepared.name)}</h1>'
        f"<p>{_summary(prepared)}</p></header>{_notices([*prepared.notices, *([room] if room else [])])}"
        f"{_tiles(prepared, num_clusters, num_flagged)}<nav>{links}</nav>\n{filled}{BAR}"
    )


def _summary(prepared: Prepared) -> str:
    num = len(prepared.kept) + len(prepared.rejected)
    return f"{plural(num, 'file')}, of which {len(prepared.kept):,} are kept and {len(prepared.rejected):,} left out."


def _tiles(prepared: Prepared, num_clusters: int, num_flagged: int) -> str:
    held_out = sum(1 for row in prepared.kept if row.get("split") == "validation")
    sources = Counter(str(row.get("caption_from", "unknown")) for row in prepared.kept)
    marked = {source for mark in prepared.lint for source in mark.sources}
    tiles = [
        ("pictures to train on", len(prepared.kept) - held_out),
        ("held out", held_out),
        ("left out", len(prepared.rejected)),
        ("pictures with copies", num_clusters),
        ("flagged", num_flagged),
        ("captions to mend", len(marked)),
        *((f"captions from {name}", count) for name, count in sources.most_common(3)),
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


def _identity(prepared: Prepared) -> str:
    """What tells this set from others in a browser's storage: its content, not where the page lies."""
    digest = hashlib.sha256(prepared.name.encode("utf-8", "surrogatepass"))
    for row in prepared.kept:
        digest.update(str(row.get("sha256", row.get("source"))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


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
