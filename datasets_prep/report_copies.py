"""The report's part about copies: every kept picture that others repeat, side by side with them."""

import heapq
from collections.abc import Sequence

from datasets_prep.records import Prepared
from datasets_prep.report_pieces import Row, Thumbnails, card, number_of, text_html, thumbnail_html, value_text
from finetune.evaluation.page import nothing

MOST_CLUSTERS = 100
MOST_COPIES = 5

COPIES = ("near_duplicate", "pixel_duplicate", "exact_duplicate")
"""The reasons that name another picture, those first that may be wrong."""


def clusters(prepared: Prepared, thumbnails: Thumbnails) -> tuple[int, str]:
    """Returns how many pictures have copies, and those with the most doubtful copies first, side by side."""
    copies: dict[str, list[tuple[float, Row, str]]] = {}
    for row in prepared.rejected:
        if row.get("reason") in COPIES and row.get("duplicate_of") is not None:
            score = number_of(row, "score") if row.get("score") is not None else 1.0
            said = f"{str(row['reason']).replace('_', ' ')}, left out"
            copies.setdefault(str(row["duplicate_of"]), []).append((score, row, said))
    for row in prepared.kept:
        if row.get("near_duplicate_of") is not None:
            copy = (number_of(row, "near_duplicate_score"), row, "near duplicate, kept")
            copies.setdefault(str(row["near_duplicate_of"]), []).append(copy)
    if not copies:
        return 0, nothing("No picture repeats another.")
    shown = heapq.nsmallest(MOST_CLUSTERS, ((_doubt(own), source) for source, own in copies.items()))
    wanted = {source for _, source in shown}
    keepers = {str(row["source"]): row for row in prepared.kept if row["source"] in wanted}
    content = "".join(
        _cluster(keepers.get(source, {"source": source}), copies[source], thumbnails) for _, source in shown
    )
    more = len(copies) - len(shown)
    note = "The kept picture stands on the left. Point at a copy, or hold it, to see the kept one in its place."
    note += f" The {len(shown)} most doubtful are shown, {more:,} more are in rejected.jsonl." if more else ""
    return len(copies), nothing(note) + f'<div class="clusters">{content}</div>'


def _doubt(copies: Sequence[tuple[float, Row, str]]) -> tuple[int, float]:
    """Near copies before those of the same pixels, and those that agree least first."""
    return min(
        (COPIES.index(str(row["reason"])) if row.get("reason") in COPIES else 0, score) for score, row, _ in copies
    )


def _cluster(keeper: Row, copies: Sequence[tuple[float, Row, str]], thumbnails: Thumbnails) -> str:
    kept = thumbnails.of(str(keeper["source"]))
    cards = [card(keeper, thumbnail_html(kept, is_fitted=True), ["<b>kept</b>" if "sha256" in keeper else ""])]
    shown = sorted(copies, key=lambda copy: (copy[0], str(copy[1]["source"])))[:MOST_COPIES]
    for score, row, said in shown:
        copy = thumbnails.of(str(row["source"]))
        picture = thumbnail_html(copy, is_fitted=True)
        if copy and kept:
            picture = f'<span class="flick">{picture}<i class="t over {kept.css}"></i></span>'
        lines = [f"{said}, score {value_text(score)}", text_html(row.get("detail", ""))]
        # A file of the same bytes has the keeper's sha256, so that a decision would be about the keeper.
        cards.append(card(row, picture, lines, can_decide=row.get("reason") != "exact_duplicate"))
    if len(copies) > len(shown):
        cards.append(f'<p class="note">and {len(copies) - len(shown):,} more</p>')
    return f'<div class="card cluster{" several" if len(cards) > 3 else ""}">{"".join(cards)}</div>'
