"""Which images are still in while the stages go on, and why the others are not."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets_prep.decisions import Decided
from datasets_prep.measure.columns import MeasuredImages
from datasets_prep.records import Duplicate, Rejected, Why, sort_key


@dataclass
class Selection:
    """The images and what the stages decided; each stage only takes away."""

    images: MeasuredImages
    is_in: np.ndarray
    """[N] bool."""
    protected: np.ndarray
    """[N] bool: what a user decided to keep, which no stage leaves out."""
    rejected: dict[int, Why] = field(default_factory=dict)
    duplicates: dict[int, Duplicate] = field(default_factory=dict)
    reported: dict[int, Duplicate] = field(default_factory=dict)
    """Near duplicates that stay in."""
    links: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of which both are in, but which must not stand on both sides of a split."""
    figures: list[tuple[str, int, int, str]] = field(default_factory=list)
    """(stage, images in, images out, what happened)."""

    def reject(self, stage: str, found: Mapping[int, Why], said: str) -> None:
        """Leaves images out for a reason, those that are protected excepted; `said` goes behind their number."""
        before = int(self.is_in.sum())
        for index, why in found.items():
            if self.is_in[index] and not self.protected[index]:
                self.rejected[index] = why
                self.is_in[index] = False
        self.note(stage, before, f"{before - int(self.is_in.sum()):,} {said}")

    def reject_duplicates(self, stage: str, found: Mapping[int, Duplicate], said: str) -> None:
        """Leaves copies out; a protected one is only reported."""
        before = int(self.is_in.sum())
        for index, duplicate in found.items():
            if self.protected[index] and duplicate.reason != "exact_duplicate":
                self.reported[index] = duplicate
            else:
                self.duplicates[index] = duplicate
                self.is_in[index] = False
        self.note(stage, before, f"{before - int(self.is_in.sum()):,} {said}")

    def note_duplicates(self, stage: str, found: Mapping[int, Duplicate], said: str) -> None:
        """Only notes copies."""
        self.reported |= found
        self.note(stage, int(self.is_in.sum()), f"{len(found):,} {said}")

    def note(self, stage: str, before: int, said: str) -> None:
        """Adds a stage's figures."""
        self.figures.append((stage, before, int(self.is_in.sum()), said))

    def duplicates_by_keeper(self) -> dict[int, list[int]]:
        """Returns, for every keeper, its copies in the order of their names."""
        found: dict[int, list[int]] = {}
        for index in sorted(self.duplicates):
            found.setdefault(self.final_keeper(index), []).append(index)
        return found

    def final_keeper(self, index: int) -> int:
        """Returns the image that stands for this one; that of exact copies may itself be a near one of another."""
        while index in self.duplicates:
            index = self.duplicates[index].keeper
        return index

    def final_duplicate(self, index: int) -> Duplicate:
        """Returns how a copy relates to the image that stands for it in the end, perhaps through another copy."""
        duplicate = self.duplicates[index]
        while duplicate.keeper in self.duplicates:
            further = self.duplicates[duplicate.keeper]
            detail = f"as {self.images.sources[duplicate.keeper]} ({duplicate.detail}): {further.detail}"
            duplicate = Duplicate(further.keeper, further.reason, min(duplicate.score, further.score), detail)
        return duplicate

    def rejections(self) -> list[Rejected]:
        """Returns a line for every image that is not in."""
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
    """Returns a sorting with all in, but for those that were dropped by hand."""
    selection = Selection(images, np.ones(len(images), bool), np.zeros(len(images), bool))
    if decisions:
        verdicts = [
            None if (each := decisions.get(images.hex(index))) is None else each.verdict for index in range(len(images))
        ]
        selection.protected[:] = [verdict == "keep" for verdict in verdicts]
        why: Why = ("dropped_by_user", "decisions.jsonl says drop", None)
        dropped = {index: why for index, verdict in enumerate(verdicts) if verdict == "drop"}
        selection.reject("decisions", dropped, "dropped in review")
    return selection


def sorted_rejections(rejected: Sequence[Rejected], selection: Selection) -> list[Rejected]:
    """Returns all that is left out, by name."""
    return sorted([*rejected, *selection.rejections()], key=lambda left: sort_key(left.source))


def counted(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Returns how many there are of each reason."""
    return dict(sorted(Counter(left.reason for left in rejected).items()))


def counts_in_words(rejected: Mapping[str, int]) -> str:
    """Returns the reasons with their counts in one line."""
    return ", ".join(f"{reason} {num:,}" for reason, num in rejected.items())
