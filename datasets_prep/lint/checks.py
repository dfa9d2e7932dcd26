"""Checks of captions, which change nothing."""

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from datasets_prep.captioners.cleaning import INTRODUCTION, SPECIAL, is_refusal
from datasets_prep.captions.own import with_trigger
from datasets_prep.captions.tags import tags_of
from datasets_prep.config import LintConfig
from datasets_prep.lint.phrases import shared_phrases
from datasets_prep.lint.words import contradictions, style_words
from datasets_prep.records import LintMark
from datasets_prep.vision.loading import OF_OTHER_FILES
from finetune.plurals import plural
from finetune.prompt_syntax import HTML, MODEL_SIGN, REFUSAL, syntax_in

MOST_DETAILS = 30
"""Marks of one kind; one more mark covers the rest."""

ADDRESS = re.compile(r"https?://|www\.\w|\b[\w-]+\.(?:com|net|org)\b", re.IGNORECASE)
FILE_NAME = re.compile(
    r"\S+\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic)|(?:img|dsc[nf]?|pxl|image|photo|screenshot)[_ -]?\d[\d_ -]*|"
    r"[\d_ .-]+|[0-9a-f]{16,}",
    re.IGNORECASE,
)
OPENING = re.compile(
    r"(?:in )?(?:the|this) (?:image|picture|photo(?:graph)?|painting|illustration|drawing) "
    r"(?:shows|depicts|features|captures|displays|presents|portrays|is of|contains)\b|"
    r"in (?:the|this) (?:image|picture)\b",
    re.IGNORECASE,
)
MOJIBAKE = re.compile("\ufffd|[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€[\u0080-\u00bf™œž“”˜¦]|[\ud800-\udfff]")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
MARKUP = re.compile(r"</?[a-z][^<>]{0,40}>|&(?:amp|lt|gt|quot|#\d+);|\[/?INST\]", re.IGNORECASE)

TOKEN_PIECE = re.compile(r"[A-Za-z'’]+|[^\W\d_]+|\d|[^\w\s]|_")
UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def token_counter(config: LintConfig) -> Callable[[str], int]:
    """Make the token counter: the configured tokenizer or the estimate."""
    if config.tokenizer is None:
        return estimated_tokens
    tokenizer = _load_tokenizer(config.tokenizer)
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    if name.startswith(("/", "./", "../", "~")) and not os.path.isdir(os.path.expanduser(name)):
        raise ValueError(f"lint.tokenizer: {name} is not a folder, expected a tokenizer's folder or a Hub id.")
    path = os.path.join(name, "tokenizer")  # of a pipeline's folder
    try:
        return AutoTokenizer.from_pretrained(path if os.path.isdir(path) else name)
    except OF_OTHER_FILES as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"lint.tokenizer: {name} holds no tokenizer that transformers can load ({reason}). Name the tokenizer "
            "folder of the model to be trained, or leave it out for an estimate."
        ) from error


def estimated_tokens(text: str) -> int:
    """Estimate the number of CLIP tokens. A sign or digit is one token, a word one and another for every five letters
    begun beyond seven, a letter of a script without spaces two, a word with letters beyond ASCII one for every two
    letters."""
    total = 0
    for piece in TOKEN_PIECE.findall(text):
        if piece.isascii():
            total += (len(piece) + 2) // 5 if len(piece) > 7 else 1
        elif UNSPACED.search(piece):
            total += 2 * len(piece)
        else:
            total += (len(piece) + 1) // 2
    return total


def lint(
    rows: Iterable[tuple[str, Sequence[str]]],
    config: LintConfig,
    trigger: str | None,
    count_tokens: Callable[[str], int],
) -> list[LintMark]:
    """List problems of each (source, captions), serious kinds first. The order of the marks does not depend on that of
    the rows, and the sources of a mark are sorted."""
    images = sorted((source, tuple(captions)) for source, captions in rows)
    found: dict[str, dict[str, set[str]]] = {}
    for source, captions in images:
        for kind, detail in _marks(source, captions, config, trigger):
            found.setdefault(kind, {}).setdefault(detail, set()).add(source)
    marks = [mark for kind in KINDS for mark in _grouped(kind, found.get(kind, {}))]
    marks += _too_long(images, config, count_tokens)
    marks += _repeated(images)
    for phrase, indices in shared_phrases([captions for _, captions in images], config.boilerplate_share, trigger):
        sources = tuple(images[index][0] for index in indices)
        marks.append(LintMark("phrase in many captions", f"{phrase} ({len(sources):,} of {len(images):,})", sources))
    return marks


SYNTAX_KIND, REFUSAL_KIND = "syntax of other programs", "refusal of a captioner"
KINDS = (
    "empty caption", REFUSAL_KIND, "broken characters", "trigger missing", "file name as caption",
    "web address", "markup", SYNTAX_KIND, "contradictory tags", "tag twice in a caption", "style words in a style set",
    "talks of the image itself",
)  # fmt: skip
"""Problems seen in a single caption, in the order of the marks."""


def _marks(source: str, captions: Sequence[str], config: LintConfig, trigger: str | None) -> Iterable[tuple[str, str]]:
    """Yield (kind, detail) of the problems of single captions."""
    if not captions or any(not caption.strip() for caption in captions):
        yield "empty caption", ""
    for caption in captions:
        text = caption.strip()
        if not text:
            continue
        if is_refusal(text):
            yield REFUSAL_KIND, ""
        if MOJIBAKE.search(text) or CONTROL.search(text):
            yield "broken characters", ""
        if trigger is not None and with_trigger(text, trigger) != text:
            yield "trigger missing", trigger
        if is_file_name(text, source):
            yield "file name as caption", ""
        elif ADDRESS.search(text):
            yield "web address", ""
        for name, piece in syntax_in(text):
            if not name.startswith("markup") and name not in (REFUSAL, MODEL_SIGN):  # kinds of their own
                yield SYNTAX_KIND, f"{name}: {piece[:60]}"
        if MARKUP.search(text) or HTML.search(text) or SPECIAL.search(text):
            yield "markup", ""
        if opening := OPENING.match(text) or INTRODUCTION.match(text):
            yield "talks of the image itself", opening.group().strip().lower()
        yield from _tag_marks(text)
        if config.is_style_set:
            yield from (("style words in a style set", word) for word in style_words(text, trigger))


def _tag_marks(text: str) -> Iterable[tuple[str, str]]:
    tags = tags_of(text)
    if tags is None:
        return
    yield from (("contradictory tags", pair) for pair in contradictions(tags))
    if len(set(tags)) < len(tags):
        yield from (("tag twice in a caption", tag) for tag in sorted(set(tags)) if tags.count(tag) > 1)


def is_file_name(text: str, source: str) -> bool:
    """Recognize a file name in place of words. It has the form of one, or is the source's."""
    stem = posixpath.splitext(posixpath.basename(source))[0]
    is_own = text == stem and re.search(r"[\d_]", stem) is not None and " " not in stem
    return is_own or FILE_NAME.fullmatch(text) is not None


def _grouped(kind: str, by_detail: dict[str, set[str]]) -> list[LintMark]:
    """Group marks by detail, most images first. Beyond the first few, one mark covers all others."""
    order = sorted(by_detail, key=lambda detail: (-len(by_detail[detail]), detail))
    marks = [LintMark(kind, detail, tuple(sorted(by_detail[detail]))) for detail in order[:MOST_DETAILS]]
    rest = order[MOST_DETAILS:]
    if rest:
        sources = sorted(set().union(*(by_detail[detail] for detail in rest)))
        marks.append(LintMark(kind, f"{plural(len(rest), 'other')}, e.g. {', '.join(rest[:3])}", tuple(sources)))
    return marks


def _too_long(
    images: Sequence[tuple[str, tuple[str, ...]]], config: LintConfig, count_tokens: Callable[[str], int]
) -> list[LintMark]:
    longest = [(source, max(map(count_tokens, captions), default=0)) for source, captions in images]
    over = [(source, count) for source, count in longest if count > config.max_tokens]
    if not over:
        return []
    estimated = ", estimated: name lint.tokenizer to count" if count_tokens is estimated_tokens else ""
    detail = f"up to {plural(max(count for _, count in over), 'token')}{estimated}"
    return [LintMark(f"longer than {config.max_tokens} tokens", detail, tuple(source for source, _ in over))]


def _repeated(images: Sequence[tuple[str, tuple[str, ...]]]) -> list[LintMark]:
    """Captions of several images, compared without case and spacing."""
    by_caption: dict[str, list[tuple[str, str]]] = {}
    for source, captions in images:
        for caption in dict.fromkeys(" ".join(caption.split()) for caption in captions):
            if caption:
                by_caption.setdefault(caption.casefold(), []).append((source, caption))
    shared = {found[0][1]: {source for source, _ in found} for found in by_caption.values() if len(found) > 1}
    shared = {caption: sources for caption, sources in shared.items() if len(sources) > 1}
    return _grouped("same caption on several images", {_shortened(caption, shared): s for caption, s in shared.items()})


def _shortened(caption: str, shared: dict[str, set[str]]) -> str:
    if len(caption) <= 160:
        return caption
    start = caption[:160]
    is_only = sum(other.startswith(start) for other in shared) == 1
    return f"{start}..." if is_only else caption
