"""Captions cleaned from the raw output of models.

Chat around a caption is removed, and a caption ends before it repeats itself.
"""

import re
from dataclasses import dataclass
from typing import Literal

from datasets_prep.captioners.base import Kind, Result

REFUSAL = re.compile(
    r"(?:(?:i'm|i am) (?:really |very |so )?sorry\b|sorry, (?:but )?i\b|i apologi[sz]e\b|"
    r"i (?:can't|cannot|can not|won't|will not|am not able|am unable)\b|i'm (?:not able|unable)\b|"
    r"(?:as|i am|i'm) an? (?:ai|artificial intelligence|(?:\w+ )?language model)\b|unfortunately, i\b|"
    r"(?:there is )?no image (?:is |was |has been )?(?:provided|attached|visible)\b|"
    r"(?:please|could you) (?:provide|upload|share|attach) (?:an|the|a) (?:image|picture|photo)\b)"
)
INTRODUCTION = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)\s*[,!.:]+\s*)?"
    r"(?:here(?:'s| is| are)\b[^:.!?\n]{0,80}:|(?:(?:image |short |detailed )?(?:caption|description)|tags)\s*:)\s*",
    re.IGNORECASE,
)
THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
SPECIAL = re.compile(r"<\|[a-z0-9_]+\|>|</?s>|<pad>|<unk>|\[(?:CLS|SEP|PAD|UNK)\]")
UNWRITABLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Lone surrogates, which UTF-8 cannot encode, and control characters except white space."""
QUOTES = ('""', "''", "“”", "‘’", "«»", "``")
PIECE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]")
"""A word, a sign, or a letter of a script without spaces."""
SENTENCE_END = re.compile(r"[.!?](?=[\"'”’)]*(?:\s|$))[\"'”’)]*|[。！？]")
END_SIGNS = (".", "!", "?", "。", "！", "？")
LONGEST_PERIOD = 60
NUM_REPEATS = 3
"""The same pieces repeated this often are a loop, if they have LEAST_REPEATED pieces in all."""
LEAST_REPEATED = 9
NUM_RECURRENCES = 4
"""In a caption that never ended, four words that recur this often are a loop even with others in between."""

DATA = re.compile(r"```|[\[{]\s*[\"'{\[]|\{.*\}\W*$", re.DOTALL)
"""How JSON and fenced code begin."""
WORD = re.compile(r"[^\W_]+")
LEAST_WORDS = 3
"""A single word repeated this often is a loop."""

Fault = Literal["refusal", "loop", "no end", "nothing", "data"]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A caption, and the fault of what the model wrote."""

    text: str
    """Empty where nothing is usable."""
    fault: Fault | None = None


def clean_result(result: Result, kind: Kind) -> Cleaned:
    """Extract the usable part of a result."""
    if result.finish == "error":
        return Cleaned("", "nothing")
    text = stripped(result.text, between=", " if kind == "tags" else " ")  # a tag on each line is a list as well
    if not text:
        return Cleaned("", "no end" if result.finish == "length" else "nothing")
    if is_refusal(text):
        return Cleaned("", "refusal")
    if DATA.match(text):
        return Cleaned("", "data")
    if not WORD.search(text):  # such as "!!!!"
        return Cleaned("", "nothing")
    is_whole = result.finish == "stop"
    if kind == "tags":
        return _clean_tags(text, is_whole)
    loop = loop_start(text, is_whole=is_whole)
    if loop is not None:
        start = whole_sentences(text[:loop])
        return Cleaned(start if WORD.search(start) else "", "loop")
    if is_whole:
        return Cleaned("", "loop") if is_one_word(text) else Cleaned(text)
    start = whole_sentences(text)
    return Cleaned("" if is_one_word(start) else start, "no end")


def stripped(text: str, between: str = " ") -> str:
    """Join the lines, without thoughts, chat tokens, introductions and quotation marks. `between` separates the lines.
    Characters that no file can hold are dropped, e.g. where a server cuts one in two."""
    text = SPECIAL.sub(" ", THOUGHTS.sub(" ", UNWRITABLE.sub("", text))).replace("**", "")
    text = between.join(" ".join(line.split()) for line in text.splitlines() if line.strip())
    text = INTRODUCTION.sub("", text).strip()
    for opening, closing in QUOTES:
        if len(text) > 1 and text[0] == opening and text[-1] == closing and not set(text[1:-1]) & {opening, closing}:
            text = text[1:-1].strip()
    return text


def is_refusal(text: str) -> bool:
    """Recognize a model that declines instead of describing the image."""
    return REFUSAL.match(text.lower().replace("’", "'").lstrip("\"' ")) is not None


def loop_start(text: str, *, is_whole: bool) -> int | None:
    """Find the position after the first occurrence of a repetition. None without one."""
    pieces = [(match.group().casefold(), match.start()) for match in PIECE.finditer(text)]
    words = [word for word, _ in pieces]
    threes = list(zip(words, words[1:], words[2:], strict=False))
    if len(set(threes)) == len(threes):  # nothing at all comes back, as in most captions
        return None
    starts = [_repetition(words, period) for period in range(1, min(LONGEST_PERIOD, len(words) // NUM_REPEATS) + 1)]
    if not is_whole:
        starts.append(_recurrence(words))
    found = [start for start in starts if start is not None]
    if not found:
        return None
    place = min(found)
    word, start = pieces[place]
    # A sentence in a loop may come after another end, with which the loop then seems to begin; its own end is kept.
    return start + 1 if word in END_SIGNS else start


def is_one_word(text: str) -> bool:
    """Recognize a text that repeats one word."""
    words = WORD.findall(text.casefold())
    return len(words) >= LEAST_WORDS and len(set(words)) == 1


def _repetition(words: list[str], period: int) -> int | None:
    """Start of the second of several equal stretches of `period` words."""
    run = 0
    for place in range(period, len(words)):
        run = run + 1 if words[place] == words[place - period] else 0
        if run >= max(period * (NUM_REPEATS - 1), LEAST_REPEATED - period):
            return place - run + 1
    return None


def _recurrence(words: list[str]) -> int | None:
    places: dict[tuple[str, ...], list[int]] = {}
    for place in range(len(words) - 3):
        found = places.setdefault(tuple(words[place : place + 4]), [])
        if not found or place >= found[-1] + 4:
            found.append(place)
    return min((found[1] for found in places.values() if len(found) >= NUM_RECURRENCES), default=None)


def whole_sentences(text: str) -> str:
    """Cut the text after its last whole sentence; may be empty."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def _clean_tags(text: str, is_whole: bool) -> Cleaned:
    parts = re.split("[,;]", text)
    stems = [part.strip(" .-•") for part in (parts if is_whole else parts[:-1])]
    listed = [tag for tag in stems if tag]
    tags = list(dict.fromkeys(listed))
    # Models that loop give the same tags over and over; which of them is right is not for the list to say.
    has_loop = len(listed) >= 2 * len(tags) and len(listed) >= LEAST_REPEATED
    if len(tags) == 1 and is_one_word(tags[0]):
        return Cleaned("", "loop")
    fault: Fault | None = "loop" if has_loop else "no end" if not is_whole else None
    return Cleaned(", ".join(tags), fault)
