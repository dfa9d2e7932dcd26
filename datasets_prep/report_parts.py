"""The report's parts about pictures: stages, what was left out, the worst of every score, flags."""

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from datasets_prep.config import FLAGS
from datasets_prep.records import Prepared
from datasets_prep.report_pieces import (
    Row,
    Thumbnails,
    bar,
    bars,
    card,
    folded,
    name_html,
    plural,
    strip,
    text_html,
    texts_of,
    thumbnail_html,
    value_text,
)
from finetune.evaluation.page import nothing

MOST_WORST = 24
MOST_REJECTED_PICTURES = 24
MOST_REJECTED_ROWS = 100

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
"""Which end of a score is the worse one; True stands for the high one. Other scores show both."""

HARMLESS = {"jpeg_quality": 100.0, "border": 0.0, "blocks": 1.0}
"""Values that say that there is nothing to see."""

UNSHOWN = ("frames",)

MEANINGS = {
    "small": "a side below quality.flag_side",
    "long": "longer than quality.flag_aspect",
    "dark": "mean brightness below quality.flag_dark",
    "light": "mean brightness above quality.flag_light",
    "blurred": "detail below quality.flag_blurred",
    "upscaled": "the spectrum ends below quality.flag_upscaled",
    "compressed": "JPEG quality below quality.flag_jpeg_quality",
    "blocks": "steps between 8-pixel blocks above quality.flag_blocks",
    "border": "a border wider than quality.flag_border",
    "animated": "only the first frame is used",
}

REASONS = {
    "empty_file": "Empty files",
    "not_an_image": "Not pictures",
    "unsupported_format": "Formats that cannot be read",
    "truncated": "Cut short",
    "decode_error": "Damaged",
    "too_many_pixels": "Too many pixels",
    "too_large": "Files too large",
    "too_small": "Too small",
    "bad_aspect": "Too long or too wide",
    "low_information": "Showing nothing",
    "flagged": "Left out for a flag",
    "unreadable": "Cannot be opened",
    "not_a_file": "Not files",
    "timeout": "Took too long",
    "worker_crashed": "Stopped the decoder",
    "out_of_memory": "Took too much memory",
    "exact_duplicate": "Same bytes as another",
    "pixel_duplicate": "Same pixels as another",
    "near_duplicate": "Near copies of another",
    "low_score": "Left out for a learned score",
    "dropped_by_user": "Dropped in review",
}


def stages(prepared: Prepared) -> str:
    """Returns the table of the stages, with how many pictures went in and came out."""
    if not prepared.figures:
        return nothing("No figures.")
    most = max(max(num_in, num_out) for _, num_in, num_out, _ in prepared.figures) or 1
    lines = "".join(
        f'<tr><td>{escape(stage)}</td><td class="right">{num_in:,}</td><td class="right">{num_out:,}</td>'
        f"{bar(num_out / most)}<td>{text_html(words, 600)}</td></tr>"
        for stage, num_in, num_out, words in prepared.figures
    )
    head = '<tr><th>stage</th><th class="right">in</th><th class="right">out</th>'
    head += '<th class="share"></th><th>what happened</th></tr>'
    return f'<div class="card wide"><table class="figures bars">{head}{lines}</table></div>'


def worst(prepared: Prepared, thumbnails: Thumbnails) -> str:
    """Returns the pictures at the worse end of every score."""
    every = (row.get("scores") for row in prepared.kept)
    names = sorted({str(name) for scores in every if isinstance(scores, Mapping) for name in scores} - set(UNSHOWN))
    names.sort(key=lambda name: list(ENDS).index(name) if name in ENDS else len(ENDS))
    num = min(MOST_WORST, max(4, len(prepared.kept) // 4))
    parts = []
    for name in names:
        for title, is_high in ENDS.get(name, ((f"Lowest {name}", False), (f"Highest {name}", True))):
            rows = _worst_rows(prepared.kept, name, num, is_high=is_high)
            if rows:
                parts.append(_worst_strip(title, name, rows, thumbnails))
    return "".join(parts) or nothing("No scores.")


def _worst_rows(kept: Sequence[Row], name: str, num: int, *, is_high: bool) -> list[Row]:
    sign = -1 if is_high else 1
    values = ((score_of(row, name), index) for index, row in enumerate(kept))
    telling = ((sign * value, index) for value, index in values if value is not None and value != HARMLESS.get(name))
    return [kept[index] for _, index in heapq.nsmallest(num, telling)]


def _worst_strip(title: str, name: str, rows: Sequence[Row], thumbnails: Thumbnails) -> str:
    cards = [
        card(
            row,
            thumbnail_html(thumbnails.of(str(row["source"]))),
            [f"<b>{value_text(score_of(row, name))}</b>", flags_html(row)],
        )
        for row in rows
    ]
    ends = [value_text(score_of(row, name)) for row in (rows[0], rows[-1])]
    heading = f"<h3>{escape(title)} <small>{escape(name)} {ends[0]} to {ends[1]}</small></h3>"
    return f'<div class="card">{heading}{strip(cards)}</div>'


def score_of(row: Row, name: str) -> float | None:
    """Returns a score of a picture, None where it has no finite one of the name."""
    scores = row.get("scores")
    value = scores.get(name) if isinstance(scores, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def flags_html(row: Row) -> str:
    """Returns the flags of a picture as marks."""
    return " ".join(f'<span class="mark">{escape(flag)}</span>' for flag in texts_of(row, "flags"))


def flags(prepared: Prepared) -> tuple[int, str]:
    """Returns how many pictures have a flag, and the table of the flags."""
    counts = Counter(flag for row in prepared.kept for flag in texts_of(row, "flags"))
    num_flagged = sum(1 for row in prepared.kept if texts_of(row, "flags"))
    if not counts:
        return 0, nothing("No picture has a flag.")
    order = [*FLAGS, *sorted(set(counts) - set(FLAGS))]
    rows = [(f'<span class="mark">{escape(flag)}</span>', counts[flag], MEANINGS.get(flag, "")) for flag in order]
    note = "Flagged pictures are kept. quality.reject leaves those with certain flags out."
    table = bars([row for row in rows if row[1]], ("flag", "pictures", "given for"))
    return num_flagged, f'<div class="card">{table}<p class="note">{note}</p></div>'


def rejected(prepared: Prepared, thumbnails: Thumbnails) -> str:
    """Returns what was left out, by reason, the most frequent first."""
    counts = Counter(str(row.get("reason")) for row in prepared.rejected)
    if not counts:
        return nothing("Nothing was left out.")
    firsts: dict[str, list[Row]] = {reason: [] for reason in counts}
    for row in prepared.rejected:
        own = firsts[str(row.get("reason"))]
        if len(own) < MOST_REJECTED_ROWS:
            own.append(row)
    shown = {row["sha256"] for rows in firsts.values() for row in rows if row.get("sha256") is not None}
    kept_content = {row.get("sha256") for row in prepared.kept if row.get("sha256") in shown}
    parts = []
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        rows = firsts[reason]
        cards = []
        for index, row in enumerate(rows):
            # One picture that cannot be read is enough to know of a reason such as truncated.
            thumbnail = thumbnails.of(str(row["source"])) if index < MOST_REJECTED_PICTURES else None
            lines = [text_html(row.get("detail", ""))]
            if row.get("duplicate_of") is not None:
                lines.append(f"copy of {name_html(row['duplicate_of'])}, score {value_text(row.get('score') or 0)}")
            can_decide = row.get("sha256") not in kept_content
            cards.append(card(row, thumbnail_html(thumbnail), lines, "row", can_decide=can_decide))
        more = count - len(rows)
        if more:
            cards.append(nothing(f"{more:,} more are in rejected.jsonl."))
        title = f"<b>{escape(REASONS.get(reason, reason))}</b> {plural(count, 'file')} <code>{escape(reason)}</code>"
        parts.append(folded(title, f'<div class="rows">{"".join(cards)}</div>'))
    return f'<div class="card folds">{"".join(parts)}</div>'
