"""Which pictures are still in while the stages go on, and why the others are not."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from datasets_prep.decisions import Decided
from datasets_prep.measure.store import Pictures
from datasets_prep.records import Duplicate, Rejected, Why
from datasets_prep.rows import sort_key


@dataclass
class Sorting:
    """The pictures and what the stages decided; each stage only takes away."""

    pictures: Pictures
    is_in: np.ndarray
    """[N] bool."""
    protected: np.ndarray
    """[N] bool: what a user decided to keep, which no stage leaves out."""
    left_out: dict[int, Why] = field(default_factory=dict)
    copies: dict[int, Duplicate] = field(default_factory=dict)
    reported: dict[int, Duplicate] = field(default_factory=dict)
    """Near duplicates that stay in."""
    links: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of which both are in, but which must not stand on both sides of a split."""
    figures: list[tuple[str, int, int, str]] = field(default_factory=list)
    """(stage, pictures in, pictures out, what happened)."""

    def leave_out(self, stage: str, found: Mapping[int, Why], said: str) -> None:
        """Leaves pictures out for a reason, those that are protected excepted; `said` goes behind their number."""
        before = int(self.is_in.sum())
        for index, why in found.items():
            if self.is_in[index] and not self.protected[index]:
                self.left_out[index] = why
                self.is_in[index] = False
        self.note(stage, before, f"{before - int(self.is_in.sum()):,} {said}")

    def merge(self, stage: str, found: Mapping[int, Duplicate], said: str) -> None:
        """Leaves copies out; a protected one is only reported."""
        before = int(self.is_in.sum())
        for index, copy in found.items():
            if self.protected[index] and copy.reason != "exact_duplicate":
                self.reported[index] = copy
            else:
                self.copies[index] = copy
                self.is_in[index] = False
        self.note(stage, before, f"{before - int(self.is_in.sum()):,} {said}")

    def report(self, stage: str, found: Mapping[int, Duplicate], said: str) -> None:
        """Only notes copies."""
        self.reported |= found
        self.note(stage, int(self.is_in.sum()), f"{len(found):,} {said}")

    def note(self, stage: str, before: int, said: str) -> None:
        """Adds a stage's figures."""
        self.figures.append((stage, before, int(self.is_in.sum()), said))

    def copies_of(self) -> dict[int, list[int]]:
        """Returns, for every keeper, its copies in the order of their names."""
        found: dict[int, list[int]] = {}
        for index in sorted(self.copies):
            found.setdefault(self.final_keeper(index), []).append(index)
        return found

    def final_keeper(self, index: int) -> int:
        """Returns the picture that stands for this one; that of exact copies may itself be a near one of another."""
        while index in self.copies:
            index = self.copies[index].keeper
        return index

    def in_full(self, index: int) -> Duplicate:
        """Returns how a copy relates to the picture that stands for it in the end, perhaps through another copy."""
        copy = self.copies[index]
        while copy.keeper in self.copies:
            further = self.copies[copy.keeper]
            detail = f"as {self.pictures.sources[copy.keeper]} ({copy.detail}): {further.detail}"
            copy = Duplicate(further.keeper, further.reason, min(copy.score, further.score), detail)
        return copy

    def rejections(self) -> list[Rejected]:
        """Returns a line for every picture that is not in."""
        sources, in_hex = self.pictures.sources, self.pictures.hex
        lines = [
            Rejected(sources[index], reason, detail, None, score, in_hex(index))
            for index, (reason, detail, score) in self.left_out.items()
        ]
        for index in self.copies:
            copy = self.in_full(index)
            if copy.keeper in self.left_out:  # by a later stage, which the copy would not have passed either
                reason, detail, score = self.left_out[copy.keeper]
                detail = f"as {sources[copy.keeper]}, which it repeats: {detail}"
                lines.append(Rejected(sources[index], reason, detail, None, score, in_hex(index)))
            else:
                keeper, score = sources[copy.keeper], round(copy.score, 4)
                lines.append(Rejected(sources[index], copy.reason, copy.detail, keeper, score, in_hex(index)))
        return lines


def new_sorting(pictures: Pictures, decisions: Mapping[str, Decided]) -> Sorting:
    """Returns a sorting with all in, but for those that were dropped by hand."""
    sorting = Sorting(pictures, np.ones(len(pictures), bool), np.zeros(len(pictures), bool))
    if decisions:
        verdicts = [
            None if (each := decisions.get(pictures.hex(index))) is None else each.verdict
            for index in range(len(pictures))
        ]
        sorting.protected[:] = [verdict == "keep" for verdict in verdicts]
        why: Why = ("dropped_by_user", "decisions.jsonl says drop", None)
        dropped = {index: why for index, verdict in enumerate(verdicts) if verdict == "drop"}
        sorting.leave_out("decisions", dropped, "dropped in review")
    return sorting


def sorted_rejections(rejected: Sequence[Rejected], sorting: Sorting) -> list[Rejected]:
    """Returns all that is left out, by name."""
    return sorted([*rejected, *sorting.rejections()], key=lambda left: sort_key(left.source))


def counted(rejected: Iterable[Rejected]) -> dict[str, int]:
    """Returns how many there are of each reason."""
    return dict(sorted(Counter(left.reason for left in rejected).items()))


def counts_in_words(rejected: Mapping[str, int]) -> str:
    """Returns the reasons with their counts in one line."""
    return ", ".join(f"{reason} {num:,}" for reason, num in rejected.items())
