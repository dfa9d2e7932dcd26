"""Decode a caption file, and find the captions in its lines; torch-free."""

import codecs
import itertools
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

CaptionLines = Literal["alternatives", "joined", "first"]
"""What several lines of a caption file are: captions to draw from, one caption, or a caption and notes below it."""

LINE_END = re.compile(r"\r\n|\n|\r")
"""Unlike str.splitlines(), which also splits at characters that JSON strings may hold."""
BLOCKS = re.compile(r"\S[^\S\n]*\n[^\S\n]*\n\s*\S")
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")
NEXT_SENTENCE = re.compile(r"[.!?…][\"'”’)\]]*\s+[\"'“‘(]?[^\W\d_a-z]")
OPEN_END = re.compile(
    r"(?:[,;:]|\b(?:an?|the|and|or|but|of|in|on|at|to|with|from|for|by|as|into|under|over|near|behind|is|are|was|were|"
    r"his|her|their|its|that|which|while|who))$",
    re.IGNORECASE,
)
CONTINUATION = re.compile(r"(?:and|or|but|of|to|while|which|that|who|whose|as|because|than)\b")
BACK_REFERENCE = re.compile(r"(?:It|He|She|They|Its|His|Their)\b")
"""Begins a sentence, not a caption."""
LONG_LINE_WORDS = 25
TAG_WORDS = 3
TAG_CHARACTERS = 12
UNSPACED = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
"""Characters of Chinese and Japanese, punctuation included, which are written without spaces."""
SEPARATORS = " ,;\u3001\uff0c\uff1b"
"""At the end of a tag; the last three are those of Chinese and Japanese."""
PARAMETERS = re.compile(r"^(?:Negative prompt:|Steps: \d+, )", re.MULTILINE)
"""With these the lines begin that image generators write below a prompt."""
MOST_ACCENTS = 4
FENCE = re.compile(r"```\w*\s*\n(.*)\n\s*```", re.DOTALL)
NOTHING = re.compile(r"nan|none|null|undefined|n/a", re.IGNORECASE)
BOXES = re.compile(r"(?:[-+]?[\d.]+(?:e[-+]?\d+)?\s+){4,}[-+]?[\d.]+(?:e[-+]?\d+)?", re.IGNORECASE)

WRITTEN_LIST = re.compile(r"\[\s*(?:\{\s*)?[\"'].*[\"'}]\s*\]|\{\s*[\"'][^\"']+[\"']\s*:.*\}", re.DOTALL)
TIMES = re.compile(r"^\s*(?:\d+:)?\d+:\d\d[.,]\d+\s*-->\s", re.MULTILINE)
"""Of a subtitle."""

WINDOWS_1252 = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xA0)}
"""What it has where Latin-1 has control characters."""


def decode_text(data: bytes) -> tuple[str, bool]:
    """Decode UTF-8, UTF-16, UTF-32 or, with True as second, Windows-1252. Windows-1252 is taken where nothing else
    fits; bytes that it leaves undefined are read as in Latin-1."""
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data.count(0) * 4 > len(data):  # UTF-16 without its mark: every other byte of plain text is zero
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        return data.decode(encoding), False
    except UnicodeDecodeError:
        return data.decode("latin-1").translate(WINDOWS_1252), True


def looks_misread(text: str) -> bool:
    """Tell if a text read as Windows-1252 is mostly beyond ASCII. No language written in it is, but for short words
    such as the French for summer."""
    beyond = [character for character in text if character > "\x7f"]
    is_most = len(beyond) * 2 > len("".join(text.split()))
    return is_most and (len(beyond) > MOST_ACCENTS or not all(map(str.isalpha, beyond)))


def in_fence(text: str) -> str:
    """Strip space, and the Markdown fence that captioners put around JSON."""
    stripped = text.strip()
    fenced = FENCE.fullmatch(stripped)
    return fenced[1].strip() if fenced else stripped


def has_words(text: str) -> bool:
    """Tell texts from punctuation alone, and from markers for nothing (nan, null)."""
    return NOTHING.fullmatch(text.strip()) is None and any(
        unicodedata.category(character)[0] in "LN" or unicodedata.category(character) == "So" for character in text
    )


def is_written_list(text: str) -> bool:
    """Recognize a list or object written as text, such as ['cat', 'dog']."""
    return WRITTEN_LIST.fullmatch(text.strip()) is not None


def is_unicode(text: str) -> bool:
    """Tell if a text can be written as UTF-8. File names and JSON may hold surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def in_lines(text: str) -> list[str]:
    """Return the lines of a text, whatever ends them."""
    return LINE_END.split(text)


def without_gaps(text: str) -> str:
    """Close the gaps that removed words and tags leave."""
    return re.sub(r",(?:\s*,)+", ",", re.sub(r"[^\S\n]{2,}", " ", text)).strip(" ,")


@dataclass(frozen=True)
class CaptionText:
    """The captions in a file's lines, and facts about it."""

    lines: tuple[str, ...]
    """Stripped, none of them blank."""
    looks_wrapped: bool = False
    """Whether the lines seem to be paragraphs or one sentence rather than captions of their own."""
    has_parameters: bool = False
    """Whether an image generator's parameters were below the prompt; they are not among the lines."""
    has_wordless: bool = False
    """Whether there were lines such as ".,", which are not among the lines."""
    is_boxes: bool = False
    """Whether the file has an object detector's labels, numbers without a caption."""

    def captions(self, lines: CaptionLines | None) -> list[str]:
        """Return the captions; None is alternatives."""
        if lines == "first":
            return list(self.lines[:1])
        if lines == "joined" and self.lines:
            return [joined(self.lines)]
        return list(self.lines)


def caption_text(text: str) -> CaptionText:
    """Parse the text of a file beside an image."""
    prompt = text
    parameters = PARAMETERS.search(text)
    if parameters is not None:
        prompt = text[: parameters.start()]
    stripped = [line.strip() for line in in_lines(prompt) if line.strip()]
    if stripped and all(BOXES.fullmatch(line) for line in stripped):
        return CaptionText((), is_boxes=True)
    lines = tuple(line for line in stripped if has_words(line))
    return CaptionText(
        lines,
        looks_wrapped=len(lines) > 1 and looks_wrapped(prompt, lines),
        has_parameters=parameters is not None,
        has_wordless=len(lines) < len(stripped),
    )


def looks_wrapped(text: str, lines: tuple[str, ...]) -> bool:
    """Tell paragraphs or a wrapped sentence from one caption per line. Signs are a blank line between two blocks,
    several sentences in a long line, a line that begins with "It" or the like, and a line that breaks off before its
    sentence ends where the next continues it in lower case, or in a script that has none."""
    if BLOCKS.search(LINE_END.sub("\n", text)):
        return True
    if any(len(line.split()) >= LONG_LINE_WORDS and NEXT_SENTENCE.search(line) for line in lines):
        return True
    has_sentences = any(SENTENCE_END.search(line) for line in lines)
    if has_sentences and any(BACK_REFERENCE.match(line) for line in lines[1:]):
        return True
    return any(_continues(line, following, has_sentences) for line, following in itertools.pairwise(lines))


def _continues(line: str, following: str, has_sentences: bool) -> bool:
    if SENTENCE_END.search(line):
        return False
    if has_sentences and all(unicodedata.category(text[0]) == "Lo" for text in (line, following)):
        return True
    if not following[:1].islower():
        return False
    begins_sentence = line[:1].isupper() and has_sentences
    return begins_sentence or OPEN_END.search(line) is not None or CONTINUATION.match(following) is not None


def joined(lines: tuple[str, ...]) -> str:
    """Join lines to one caption, tags with commas, others with spaces. Short phrases count as tags. Where
    Chinese or Japanese meets Chinese or Japanese, the comma is theirs, and no space is added."""
    are_tags = all(_is_short(line) for line in lines)
    stripped = [line.rstrip(SEPARATORS) for line in lines] if are_tags else lines
    text = stripped[0]
    for line in stripped[1:]:
        is_unspaced = UNSPACED.match(text[-1:]) is not None and UNSPACED.match(line) is not None
        between = ("\u3001", "") if is_unspaced else (", ", " ")
        text += between[0 if are_tags else 1] + line
    return text


def _is_short(line: str) -> bool:
    """Tell if a line may be a tag or a phrase. Where no spaces separate words, characters are counted."""
    is_brief = len(line.split()) <= TAG_WORDS and len(UNSPACED.findall(line)) <= TAG_CHARACTERS
    return is_brief and not SENTENCE_END.search(line)
