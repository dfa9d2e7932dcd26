"""The report's part about words: lengths of captions, and frequent phrases."""

import heapq
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from markupsafe import Markup

from datasets_prep.report.pieces import Row, nothing, render
from finetune.plurals import plural

MOST_COUNTED = 20_000

ID_BITS = 21
"""Bits of a word's number; three numbers fit into 64 bits."""

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")


class Words:
    """Counts of words and phrases, collected row by row. In large datasets only every n-th row counts."""

    def __init__(self, num_pictures: int) -> None:
        self._step = max(1, -(-num_pictures // MOST_COUNTED))
        self._lengths: Counter[int] = Counter()
        self._words: Counter[str] = Counter()
        self._phrases = _Phrases()

    def add(self, place: int, row: Row) -> None:
        if place % self._step == 0:
            words = WORD.findall(str(row.get("text", "")).lower())
            self._lengths[min(len(words) // 5, 20)] += 1
            self._words.update(set(words))
            self._phrases.add(words)

    def html(self) -> Markup:
        if not self._words:
            return nothing("No captions.")
        spans = [
            (f"{start * 5} to {start * 5 + 4} words" if start < 20 else "100 words or more", count, "")
            for start, count in sorted(self._lengths.items())
        ]
        long = ((word, count) for word, count in self._words.items() if len(word) > 2)
        num = self._lengths.total()
        counted = f" Counted on {plural(num, 'caption')}, one in every {self._step:,}." if self._step > 1 else ""
        words, phrases = _most_frequent(long, 40), _most_frequent(self._phrases.counts(), 15)
        return render("words.html", "words", spans, words, phrases, counted)


class _Phrases:
    """Counts of captions with the same three words in a row. Each takes 8 bytes, where a text would take 200."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._found = array("Q")

    def add(self, words: Sequence[str]) -> None:
        ids = [self._ids.setdefault(word, len(self._ids)) for word in words]
        if len(self._ids) <= 1 << ID_BITS:  # two million words are not captions
            threes = zip(ids, ids[1:], ids[2:], strict=False)
            self._found.extend({(one << ID_BITS | two) << ID_BITS | three for one, two, three in threes})

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield the phrases in more than one caption, with counts."""
        keys, counts = np.unique(np.frombuffer(self._found, np.uint64), return_counts=True)
        words, last = list(self._ids), (1 << ID_BITS) - 1
        for key, count in zip(keys[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            yield " ".join(words[key >> shift & last] for shift in (2 * ID_BITS, ID_BITS, 0)), count


def _most_frequent(counts: Iterable[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """Return the most frequent terms in more than one caption."""
    top = heapq.nsmallest(most, ((-count, term) for term, count in counts if count > 1))
    return [(term, -count) for count, term in top]
