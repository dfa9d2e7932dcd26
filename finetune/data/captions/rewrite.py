"""Change captions as they are read. This adds words and reads the syntax of other programs."""

import html
import itertools
import re
from dataclasses import dataclass

from finetune.data.captions.text import without_gaps
from finetune.data.listing import Findings
from finetune.prompt_syntax import HTML, QUOTES, SYNTAX, caption_warning, syntax_in

MOST_VARIANTS = 64
"""Of one caption; all are encoded."""
PLACEHOLDER = re.compile(r"\[(?:trigger(?:[ _]?word)?|name)\]", re.IGNORECASE)
CHOICE = re.compile(r"\{([^{}]*\|[^{}]*)\}")
CHANCE = re.compile(r"\s*\d*\.?\d+::")
"""How likely a choice is there; here all are equally likely."""
WEIGHTED = re.compile(r"\(([^()]*[^\W\d_][^()]*?)\s*:\s*\d*\.?\d+\)|\(\(([^()]+)\)\)")
ESCAPED = re.compile(r"\\([()\[\]{}])")
PARENTHESES = {"(": "\x01", ")": "\x02", "[": "\x03", "]": "\x04", "{": "\x05", "}": "\x06"}
"""What stands for escaped signs while the others are read."""


class TooManyVariantsError(ValueError):
    """A caption with more choices than are encoded."""


@dataclass(frozen=True)
class CaptionEdits:
    """Changes of every caption of a dataset, in this order."""

    caption: str | None = None
    """One caption instead of the image's own."""
    expand: bool = False
    """Whether {a|b} becomes two captions, (word:1.2) a word, an escaped sign itself, HTML its text, and a caption in
    quotes is without them."""
    trigger: str | None = None
    """It replaces [trigger] and [name]; captions without these and the trigger begin with it."""
    prefix: str = ""
    suffix: str = ""

    def __bool__(self) -> bool:
        return self != CaptionEdits()

    def applied(self, captions: tuple[str, ...]) -> tuple[str, ...]:
        """Return the changed captions, each once. Raises TooManyVariantsError."""
        texts = captions if self.caption is None else (self.caption,)
        if self.expand:
            texts = tuple(variant for text in texts for variant in expanded(text))
        return tuple(dict.fromkeys(self._surrounded(self._named(text)) for text in texts))

    def _named(self, text: str) -> str:
        if self.trigger is None:
            return text
        trigger = self.trigger
        text = PLACEHOLDER.sub(lambda _: trigger, text)
        if re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
            return text
        return f"{trigger}, {text}" if text else trigger

    def _surrounded(self, text: str) -> str:
        """Put prefix and suffix around a caption, with spaces between."""
        if self.prefix and text:
            text = self.prefix + ("" if self.prefix[-1].isspace() else " ") + text
        elif self.prefix:
            text = self.prefix.rstrip()
        if self.suffix and text:
            text += ("" if self.suffix[0].isspace() or self.suffix[0] in ",.;:" else " ") + self.suffix
        return (text or self.suffix).strip()


def edited_captions(name: str, captions: tuple[str, ...], edits: CaptionEdits, findings: Findings) -> tuple[str, ...]:
    """Return an image's changed captions, and note syntax that is left."""
    try:
        captions = edits.applied(captions) if edits else captions
    except TooManyVariantsError as error:
        findings.error("captions with too many choices to expand", f"{name} ({error})")
    for kind, piece in {kind: piece for caption in captions for kind, piece in syntax_in(caption)}.items():
        findings.warn(caption_warning(kind), f"{name} ({piece})")
    return captions


def expanded(text: str) -> tuple[str, ...]:
    """Return the captions that a text with choices and weights means. A plain text is its only one."""
    text = without_gaps(HTML.sub(_shown, text)) if HTML.search(text) else text
    text = text.strip(" ,")[1:-1] if SYNTAX[QUOTES].fullmatch(text) else text
    signs = ESCAPED.sub(lambda found: PARENTHESES[found[1]], text)
    plain = signs
    while (shorter := WEIGHTED.sub(lambda found: found[1] or found[2], plain)) != plain:
        plain = shorter
    variants = tuple(itertools.islice(_choices(plain), MOST_VARIANTS + 1))
    if len(variants) > MOST_VARIANTS:
        raise TooManyVariantsError(f"more than {MOST_VARIANTS} variants")
    if signs == text and variants == (text,):
        return (text,)
    unescaped = (without_gaps(_signs_again(variant)) for variant in variants)
    return tuple(dict.fromkeys(variant for variant in unescaped if variant))


def _shown(found: re.Match[str]) -> str:
    """Return the character of an entity, and a space for a tag."""
    return html.unescape(found[0]).replace("\xa0", " ") if found[0].startswith("&") else " "


def _choices(text: str) -> "itertools.chain[str]":
    """Yield a text for every choice, the innermost first."""
    found = next((each for each in CHOICE.finditer(text) if "$$" not in each[1]), None)
    if found is None:
        return itertools.chain((text,))
    parts = [CHANCE.sub("", part, count=1) if CHANCE.match(part) else part for part in found[1].split("|")]
    return itertools.chain.from_iterable(
        _choices(text[: found.start()] + part.strip() + text[found.end() :]) for part in parts
    )


def _signs_again(text: str) -> str:
    for sign, mark in PARENTHESES.items():
        text = text.replace(mark, sign)
    return text
