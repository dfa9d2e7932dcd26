"""The result of votes: a share with its interval. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.evaluate.intervals import Interval, weighted_interval
from finetune.plurals import plural
from finetune.rate.pairs import Pair
from finetune.rate.votes import Preferred

DEVIATIONS = 1.959964
"""Standard deviations on both sides that contain 95 % of a normal distribution."""
Points = dict[tuple[str, int], float]
"""(prompt, seed) -> 1 where the first target is preferred, 0 the second, 0.5 none."""


@dataclass(frozen=True)
class PromptCounts:
    """The votes about the images of one prompt."""

    prompt: str
    first: int
    second: int
    neither: int


@dataclass(frozen=True)
class Result:
    """The votes about two targets."""

    first: str
    second: str
    num_pairs: int
    prompts: Sequence[PromptCounts]
    share: Interval | None
    """Share of the votes for the first target, with half of those for neither. None without votes."""

    @property
    def num_votes(self) -> int:
        """Number of pairs that were voted about."""
        return sum(each.first + each.second + each.neither for each in self.prompts)

    def sentences(self) -> list[str]:
        """Say the result in words."""
        if self.share is None:
            return [f"No votes yet about {plural(self.num_pairs, 'pair')}."]
        neither = sum(each.neither for each in self.prompts)
        percent = [f"{100 * value:.0f}" for value in (self.share.value, self.share.low, self.share.high)]
        found = [
            f"{self.first} is preferred to {self.second} in {percent[0]} % of {plural(self.num_votes, 'vote')} "
            f"(95 % interval {percent[1]} to {percent[2]} %), counting {neither} without a difference as half."
        ]
        if self.share.low <= 0.5 <= self.share.high:
            found.append("No preference shows: the interval contains 50 %.")
        else:
            found.append(f"{self.first if self.share.value > 0.5 else self.second} is preferred.")
        if self.num_votes < self.num_pairs:
            found.append(f"{plural(self.num_pairs - self.num_votes, 'pair')} without a vote.")
        return found

    def table(self) -> list[str]:
        """Count the votes of each prompt."""
        lines = [f"{'first':>7}{'neither':>9}{'second':>8}  prompt"] if self.num_votes else []
        counts = [each for each in self.prompts if each.first + each.second + each.neither]
        return lines + [f"{each.first:>7}{each.neither:>9}{each.second:>8}  {each.prompt}" for each in counts]


def count_votes(pairs: Sequence[Pair], votes: Mapping[str, Preferred], first: str, second: str) -> Result:
    """Count the votes about pairs of two targets."""
    points: Points = {}
    counts = {pair.prompt: [0, 0, 0] for pair in sorted(pairs, key=lambda pair: pair.prompt)}
    for pair in pairs:
        if pair.key not in votes:
            continue
        ours = pair.left if pair.left.target == first else pair.right
        preferred = votes[pair.key]
        place = 2 if preferred is None else 0 if preferred == ours.sha256 else 1
        counts[pair.prompt][place] += 1
        points[pair.prompt, pair.seed] = (1.0, 0.0, 0.5)[place]
    rows = [PromptCounts(prompt, *numbers) for prompt, numbers in counts.items()]
    return Result(first, second, len(pairs), rows, share_interval(points) if points else None)


def share_interval(points: Points) -> Interval:
    """Bound the share of points by the wider of two intervals.

    Wilson's takes votes about one prompt for independent. The bootstrap over prompts and seeds does not, but is too
    narrow for few or equal votes.
    """
    prompts, seeds = (sorted({key[axis] for key in points}, key=str) for axis in (0, 1))
    table = np.full((len(prompts), len(seeds)), np.nan)
    for (prompt, seed), value in points.items():
        table[prompts.index(prompt), seeds.index(seed)] = value
    has_vote = ~np.isnan(table)

    def mean(weights: np.ndarray) -> float:
        total = weights[has_vote].sum()
        return float((weights[has_vote] * table[has_vote]).sum() / total) if total else math.nan

    drawn, wilson = weighted_interval(mean, *table.shape), wilson_interval(sum(points.values()), len(points))
    return Interval(drawn.value, min(drawn.low, wilson.low), max(drawn.high, wilson.high))


def wilson_interval(total: float, num: int) -> Interval:
    """Bound a share of independent votes. Wilson, "Probable inference, the law of succession" (1927)."""
    share, z2 = total / num, DEVIATIONS**2
    middle = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = DEVIATIONS / (1 + z2 / num) * math.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
