"""Phrases that many captions share. Time and memory grow no faster than the captions."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from datasets_prep.captions.tags import tags_of
from datasets_prep.lint.words import without_trigger

LENGTH = 4
"""Words of the shortest phrase."""
LONGEST = 60
LEAST_IMAGES = 5
SAMPLE = 20_000
"""Images whose phrases are all counted; in the others only phrases that are frequent in these."""
KEPT = 0.9
"""A longer phrase replaces a shorter one in it if it is in this share of the shorter one's images."""
MOST_PHRASES = 50
BREAK = "\n"

Words = tuple[str, ...]


def shared_phrases(captions: Sequence[Sequence[str]], share: float, trigger: str | None) -> list[tuple[str, list[int]]]:
    """Find frequent phrases of four or more words, with indices. They are in more than a share of the images; the most
    frequent comes first. Case is ignored, phrases never contain the trigger, and in tag lists they do not cross commas.
    Above 20,000 images the candidates come from an evenly spaced sample; the counts are of all."""
    least = max(LEAST_IMAGES, math.floor(share * len(captions)) + 1)
    candidates = _candidates(captions, share, trigger)
    if not candidates:
        return []
    rows: dict[tuple[Words, ...], list[int]] = {}
    for index, texts in enumerate(captions):
        if runs := _runs(texts, trigger, candidates):
            rows.setdefault(runs, []).append(index)
    return [
        (" ".join(phrase), sorted(index for runs, found in rows.items() if _holds(runs, phrase) for index in found))
        for phrase in _longest(rows, least)[:MOST_PHRASES]
    ]


def _candidates(captions: Sequence[Sequence[str]], share: float, trigger: str | None) -> set[Words]:
    size = max(SAMPLE, math.ceil(100 / share) if share > 0 else len(captions))
    step = max(1, len(captions) // size)
    sample = captions[::step]
    counts: Counter[Words] = Counter()
    for texts in sample:
        counts.update({gram for part in _parts(texts, trigger) for gram in _grams(part, LENGTH)})
    least = LEAST_IMAGES if step == 1 else 0.8 * share * len(sample)
    return {gram for gram, count in counts.items() if count >= least and (step > 1 or count > share * len(sample))}


def _parts(texts: Sequence[str], trigger: str | None) -> Iterator[Words]:
    for text in texts:
        breaks = BREAK if tags_of(text) is None else f"{BREAK},"
        for part in re.split(f"[{breaks}]", without_trigger(text, trigger, BREAK).casefold()):
            yield tuple(re.findall(r"\w[\w'’-]*", part))


def _grams(words: Words, length: int) -> set[Words]:
    return {words[start : start + length] for start in range(len(words) - length + 1)}


def _runs(texts: Sequence[str], trigger: str | None, candidates: set[Words]) -> tuple[Words, ...]:
    """Stretches of captions that consist of candidates, each once."""
    runs = set()
    for words in _parts(texts, trigger):
        start = None
        for place in range(len(words) - LENGTH + 2):
            if words[place : place + LENGTH] in candidates:
                start = place if start is None else start
            elif start is not None:
                runs.add(words[start : place - 1 + LENGTH])
                start = None
    return tuple(sorted(runs))


def _longest(rows: dict[tuple[Words, ...], list[int]], least: int) -> list[Words]:
    """Frequent phrases that no longer phrase covers, most frequent first."""
    chosen: dict[Words, int] = {}
    current = _frequent(rows, LENGTH, least)
    for length in range(LENGTH + 1, LONGEST + 2):
        longer = _frequent(rows, length, least) if length <= LONGEST and current else {}
        covered: Counter[Words] = Counter()
        for phrase, count in longer.items():
            for part in (phrase[:-1], phrase[1:]):
                covered[part] = max(covered[part], count)
        chosen |= {phrase: count for phrase, count in current.items() if covered[phrase] < KEPT * count}
        current = longer
    return sorted(chosen, key=lambda phrase: (-chosen[phrase], -len(phrase), phrase))


def _frequent(rows: dict[tuple[Words, ...], list[int]], length: int, least: int) -> dict[Words, int]:
    counts: Counter[Words] = Counter()
    for runs, found in rows.items():
        for gram in {gram for run in runs for gram in _grams(run, length)}:
            counts[gram] += len(found)
    return {gram: count for gram, count in counts.items() if count >= least}


def _holds(runs: tuple[Words, ...], phrase: Words) -> bool:
    size = len(phrase)
    return any(run[start : start + size] == phrase for run in runs for start in range(len(run) - size + 1))
