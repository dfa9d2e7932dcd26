"""The page around a report: one file, nothing fetched, no script but the one it was made with; light and dark."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from finetune.files import aside

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Browsers load nothing on such a page, and run no script, whatever stands in it."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f7f6f3; --card: #ffffff; --ink: #1d1f24; --soft: #6a6f7a; --rule: #e4e2dc; --grid: #eceae5;
  --c1: #2f5fd0; --c2: #c2571a; --c3: #2a8a63; --faint: .28; --good: #1f7a4d; --warn: #8a5a00; --warn-paper: #fff6dd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --card: #1c1f25; --ink: #e8e9ec; --soft: #9aa0ac; --rule: #2d323b; --grid: #262a32;
    --c1: #82a8ff; --c2: #f0a06a; --c3: #6fd0a4; --faint: .34; --good: #6fd0a4; --warn: #f3cd7a; --warn-paper: #2d2616;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 34px 24px 60px; }
header { margin-bottom: 22px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 40px 0 12px; }
header p, .note { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
.banner { background: var(--warn-paper); color: var(--warn); border-radius: 10px; padding: 10px 14px;
  margin: 16px 0 0; }
.banner ul { margin: 0; padding-left: 20px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 22px 0 0; }
.tile, .card, .chart { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; }
.tile { padding: 13px 16px; }
.tile span { display: block; color: var(--soft); font-size: 12.5px; }
.tile b { display: block; font-size: 19px; line-height: 1.3; font-weight: 620; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile .better { color: var(--good); }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 14px; }
.charts > :first-child { grid-column: 1 / -1; }
@media (max-width: 760px) {
  main { padding: 22px 14px 40px; } .charts { grid-template-columns: minmax(0, 1fr); }
  .charts > :first-child { overflow-x: auto; } .charts > :first-child svg { min-width: 800px; }
}
.chart { margin: 0; padding: 14px 16px 10px; }
.chart svg { display: block; width: 100%; height: auto; }
figcaption { display: flex; justify-content: space-between; gap: 12px; flex-wrap: wrap; margin-bottom: 6px;
  font-size: 14px; }
.legend { color: var(--soft); font-size: 12.5px; display: flex; gap: 14px; flex-wrap: wrap; }
.key::before { content: ""; display: inline-block; width: 16px; height: 0; border-top: 2.5px solid currentColor;
  vertical-align: 3px; margin-right: 6px; }
.key.c1::before { color: var(--c1); } .key.c2::before { color: var(--c2); } .key.c3::before { color: var(--c3); }
.key.faint::before { opacity: .4; } .key.level::before { border-top-style: dashed; border-top-width: 2px; }
.tick { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); fill: none; } .axis { stroke: var(--rule); fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); } .line.c3 { stroke: var(--c3); }
.line.faint { stroke-width: 1.2; opacity: var(--faint); }
.dot.c1, .hover .c1 { fill: var(--c1); } .dot.c2, .hover .c2 { fill: var(--c2); }
.dot.c3, .hover .c3 { fill: var(--c3); }
.level { stroke: var(--soft); stroke-width: 1.4; stroke-dasharray: 5 4; fill: none; }
.hover rect { fill: transparent; } .hover path, .hover circle { opacity: 0; pointer-events: none; }
.hover path { stroke: var(--soft); fill: none; } .hover:hover path { opacity: .5; } .hover:hover circle { opacity: 1; }
.card { padding: 14px 16px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; padding: 4px 18px 6px 0;
  white-space: nowrap; }
td { padding: 4px 18px 4px 0; vertical-align: top; }
.facts th { width: 170px; } .pair .facts th { width: 110px; } .facts td { overflow-wrap: anywhere; }
.figures { width: 100%; } .figures td, .figures th { border-bottom: 1px solid var(--grid); }
.figures tr:last-child td { border-bottom: 0; } .right { text-align: right; }
.bar { display: inline-block; height: 9px; border-radius: 3px; background: var(--c1); min-width: 2px; }
.previews td { padding: 0 12px 14px 0; } .previews th { padding: 0 12px 6px 0; }
.previews .prompt { color: var(--ink); font-size: 14px; white-space: normal; padding-top: 4px; }
.previews small { color: var(--soft); font-weight: 400; margin-left: 6px; }
.previews img { display: block; border-radius: 6px; max-width: none; background: var(--grid); }
pre { margin: 0; font: 12.5px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-x: auto; }
.pair { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); gap: 14px; align-items: start; }
@media (max-width: 760px) { .pair { grid-template-columns: minmax(0, 1fr); } }
footer { color: var(--soft); font-size: 12.5px; margin-top: 34px; }
"""


def page(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """Returns the document; `body` is HTML whose texts are escaped already.

    `style` is added to the style sheet. `script` is the only one that browsers run: they are told its hash.
    """
    policy, ending = POLICY, ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        policy = f"{POLICY}; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
        ending = f"<script>{script}</script>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n"
        f"<body><main>\n{body}\n</main>{ending}</body></html>\n"
    )


def write_page(path: Path, text: str) -> None:
    """Replaces the file in one step; what UTF-8 cannot hold (undecodable file names) becomes a question mark."""
    temporary = aside(path)
    temporary.write_bytes(text.encode("utf-8", "replace"))
    temporary.replace(path)


def section(title: str, content: str) -> str:
    """Returns a titled part of the page."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def nothing(text: str) -> str:
    """Returns what stands where a part is missing."""
    return f'<p class="note">{escape(text)}</p>'


def banner(notes: Sequence[str]) -> str:
    """Returns what a reader must know first."""
    lines = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f'<div class="banner">{lines}</div>' if notes else ""


def facts_table(facts: Sequence[tuple[str, Any]]) -> str:
    """Returns names and values in two columns."""
    lines = "".join(f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in facts)
    return f'<table class="facts">{lines}</table>'
