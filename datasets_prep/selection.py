"""The images that remain, and why others were rejected."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from datasets_prep.decisions import Decided
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.records import Duplicate, Rejected, Why


@dataclass
class Selection:
    """The images and the decisions of the stages, which only remove."""

    images: MeasuredImages
    is_in: np.ndarray  # [N] bool
    protected: np.ndarray  # [N] bool: images that a user decided to keep, which no stage rejects
    rejected: dict[int, Why] = field(default_factory=dict)
    duplicates: dict[int, Duplicate] = field(default_factory=dict)
    reported: dict[int, Duplicate] = field(default_factory=dict)
    """Near duplicates that stay."""
    links: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of kept images that a split must not separate."""
    figures: list[tuple[str, int, int, str]] = field(default_factory=list)
    """(stage, images in, images out, what happened)."""

    def reject(self, stage: str, found: Mapping[int, Why], said: str) -> None:
        """Reject images for a reason, except protected ones. `said` follows their number in the figures."""
        before = int(self.is_in.sum())
        for index, why in found.items():
            if self.is_in[index] and not self.protected[index]:
                self.rejected[index] = why
                self.is_in[index] = False
        self.note(stage, before, f"{before - int(self.is_in.sum()):,} {said}")

    def reject_duplicates(self, stage: str, found: Mapping[int, Duplicate], said: str) -> None:
        """Reject duplicates; a protected one is only reported."""
        before = int(self.is_in.sum())
        for index, duplicate in found.items():
            if self.protected[index] and duplicate.reason != "exact_duplicate":
                self.reported[index] = duplicate
            else:
                self.duplicates[index] = duplicate
                self.is_in[index] = False
        self.note(stage, before, f"{before - int(self.is_in.sum()):,} {said}")

    def note_duplicates(self, stage: str, found: Mapping[int, Duplicate], said: str) -> None:
        """Report duplicates without rejecting them."""
        self.reported |= found
        self.note(stage, int(self.is_in.sum()), f"{len(found):,} {said}")

    def note(self, stage: str, before: int, said: str) -> None:
        self.figures.append((stage, before, int(self.is_in.sum()), said))

    def duplicates_by_keeper(self) -> dict[int, list[int]]:
        """Group the duplicates by their keeper, in the order of names."""
        found: dict[int, list[int]] = {}
        for index in sorted(self.duplicates):
            found.setdefault(self.final_duplicate(index).keeper, []).append(index)
        return found

    def final_duplicate(self, index: int) -> Duplicate:
        """Relate a duplicate to its final keeper. The keeper of an exact duplicate may itself be a near duplicate."""
        duplicate = self.duplicates[index]
        while duplicate.keeper in self.duplicates:
            further = self.duplicates[duplicate.keeper]
            detail = f"as {self.images.sources[duplicate.keeper]} ({duplicate.detail}): {further.detail}"
            duplicate = Duplicate(further.keeper, further.reason, min(duplicate.score, further.score), detail)
        return duplicate

    def rejections(self) -> list[Rejected]:
        sources, in_hex = self.images.sources, self.images.hex
        lines = [
            Rejected(sources[index], reason, detail, None, score, in_hex(index))
            for index, (reason, detail, score) in self.rejected.items()
        ]
        for index in self.duplicates:
            duplicate = self.final_duplicate(index)
            if duplicate.keeper in self.rejected:  # by a later stage, which the copy would not have passed either
                reason, detail, score = self.rejected[duplicate.keeper]
                detail = f"as {sources[duplicate.keeper]}, which it repeats: {detail}"
                lines.append(Rejected(sources[index], reason, detail, None, score, in_hex(index)))
            else:
                keeper, score = sources[duplicate.keeper], round(duplicate.score, 4)
                lines.append(Rejected(sources[index], duplicate.reason, duplicate.detail, keeper, score, in_hex(index)))
        return lines


def new_selection(images: MeasuredImages, decisions: Mapping[str, Decided]) -> Selection:
    """Select all images, except those dropped by hand."""
    selection = Selection(images, np.ones(len(images), bool), np.zeros(len(images), bool))
    if decisions:
        decided = [decisions.get(images.hex(index)) for index in range(len(images))]
        selection.protected[:] = [each is not None and each.verdict == "keep" for each in decided]
        why: Why = ("dropped_by_user", "decisions.jsonl says drop", None)
        dropped = {index: why for index, each in enumerate(decided) if each is not None and each.verdict == "drop"}
        selection.reject("decisions", dropped, "dropped in review")
    return selection


def counted(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Count the rejections of each reason."""
    return dict(sorted(Counter(left.reason for left in rejected).items()))


def counts_in_words(rejected: Mapping[str, int]) -> str:
    """Write the reasons and their counts on one line."""
    return ", ".join(f"{reason} {num:,}" for reason, num in rejected.items())
