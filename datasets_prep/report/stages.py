"""The report's parts about stages, flags and rejected files."""

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from datasets_prep.config import FLAGS
from datasets_prep.records import Prepared
from datasets_prep.report.pieces import Row, Thumbnail, Thumbnails, nothing, render, texts_of

MOST_REJECTED_IMAGES = 24
MOST_REJECTED_ROWS = 100

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
    "not_an_image": "Not images",
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
    "near_duplicate": "Near duplicates of another",
    "low_score": "Left out for a learned score",
    "dropped_by_user": "Dropped in review",
    "unused_mask": "Masks without an image",
}


def stages(prepared: Prepared) -> Markup:
    """Show the table of stages with the images in and out."""
    if not prepared.figures:
        return nothing("No figures.")
    most = max(max(num_in, num_out) for _, num_in, num_out, _ in prepared.figures) or 1
    return render("stages.html", "stages", prepared.figures, most)


class Flags:
    """Counts of flags, collected row by row."""

    def __init__(self) -> None:
        self.num_flagged = 0
        """Images with one or more."""
        self._counts: Counter[str] = Counter()

    def add(self, row: Row) -> None:
        own = texts_of(row, "flags")
        self._counts.update(own)
        self.num_flagged += bool(own)

    def html(self) -> Markup:
        if not self._counts:
            return nothing("No image has a flag.")
        order = [*FLAGS, *sorted(set(self._counts) - set(FLAGS))]
        counts = [(flag, self._counts[flag]) for flag in order if self._counts[flag]]
        rows = [(render("stages.html", "mark", flag), num, MEANINGS.get(flag, "")) for flag, num in counts]
        return render("stages.html", "flags", rows)


@dataclass(frozen=True)
class Reason:
    """Files that were rejected for one reason, the first of them shown."""

    name: str
    title: str
    count: int
    shown: list[tuple[Row, Thumbnail | None, bool]]
    """Row, thumbnail, and whether it can be decided about."""


class LeftOut:
    """Rejected files by reason, collected row by row. The first few of each reason are kept."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._firsts: dict[str, list[Row]] = {}
        self._contents: set[object] = set()
        self._kept_contents: set[object] = set()

    def add(self, row: Row) -> None:
        reason = str(row.get("reason"))
        self._counts[reason] += 1
        firsts = self._firsts.setdefault(reason, [])
        if len(firsts) < MOST_REJECTED_ROWS:
            firsts.append(row)
            self._contents |= {row.get("sha256")} - {None}

    def add_kept(self, row: Row) -> None:
        """Add a row of metadata.jsonl, after all of rejected.jsonl. It may have the content of a rejected one."""
        if row.get("sha256") in self._contents:
            self._kept_contents.add(row.get("sha256"))

    def html(self, thumbnails: Thumbnails) -> Markup:
        if not self._counts:
            return nothing("Nothing was left out.")
        order = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        reasons = [self._reason(name, count, thumbnails) for name, count in order]
        return render("stages.html", "left_out", reasons)

    def _reason(self, name: str, count: int, thumbnails: Thumbnails) -> Reason:
        shown = []
        for index, row in enumerate(self._firsts[name]):
            # One image that cannot be read is enough to know of a reason such as truncated.
            thumbnail = thumbnails.of(str(row["source"])) if index < MOST_REJECTED_IMAGES else None
            shown.append((row, thumbnail, row.get("sha256") not in self._kept_contents))
        return Reason(name, REASONS.get(name, name), count, shown)
