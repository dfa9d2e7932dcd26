"""Signs of captions in forms that are not read; torch-free."""

import re
from collections.abc import Iterable, Iterator, Mapping

from finetune.data.captions.text import is_written_list
from finetune.data.listing import described

TELLING_FIELD = re.compile(
    r"caption|text|prompt|tag|desc|title|label|keyword|comment|content|alt|conversation|sentence|response|answer",
    re.IGNORECASE,
)
CERTAIN_FIELD = re.compile(r"caption|prompt|conversation|descri|(?:^|_)tags?(?:$|_)", re.IGNORECASE)
"""One word is enough in these."""
WORD = re.compile(r"[^\W\d_]{2,}")
"""Captions have two, unlike names, numbers and dates."""
TELLING_NAME = re.compile(r"caption|prompt|tags?\b|label|annotation|meta", re.IGNORECASE)
BOX_FIELD = re.compile(r"bbox(?:es)?|bndbox|box(?:es|_2d)?|x_?min|points|polygons?|segmentation|keypoints")
"""An object detector writes these beside its labels."""
HAS_BOXES = re.compile(rf"(?<![^\W_])(?:{BOX_FIELD.pattern})(?![^\W_])")
CAPTIONS_NAME = re.compile(r"caption|prompt", re.IGNORECASE)
"""A file called so lists captions and nothing else."""
DEPTH = 6
"""Of nested objects that are looked into."""
ELEMENT = re.compile(
    r"<((?!rdf:)(?:[\w-]+:)?(?:\w*caption\w*|description|subject|title|prompt|tags?|keywords?|text|comment|p|body))\b[^<>]*"
    r"(?<!/)>(.*?)</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
"""An element of XML or HTML that may have a caption, and its content."""
ELEMENT_TAG = re.compile(r"<[^<>]*>")


def texts_within(value: object, depth: int = 0) -> Iterator[str]:
    """Yield the texts in nested lists and objects, e.g. tags by category."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping) and depth < DEPTH:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts_within(item, depth + 1)


def telling_fields(value: object, depth: int = 0) -> Iterator[str]:
    """Yield fields, also nested ones, that seem to contain captions. Their names and the words in them decide. Labels
    of an object detector's boxes do not count."""
    if isinstance(value, Mapping) and depth < DEPTH:
        is_box = any(BOX_FIELD.fullmatch(str(field)) for field in value)
        for field, content in value.items():
            is_certain = CERTAIN_FIELD.search(str(field)) is not None
            least = 1 if is_certain else 2
            if is_box and not is_certain:
                yield from telling_fields(content, depth + 1)
            elif TELLING_FIELD.search(str(field)) and any(
                len(WORD.findall(text)) >= least for text in texts_within(content)
            ):
                yield str(field)
            else:
                yield from telling_fields(content, depth + 1)
    elif isinstance(value, list) and depth < DEPTH:
        for item in value[:20]:
            yield from telling_fields(item, depth + 1)


def why_no_text(values: Iterable[object]) -> str:
    """Describe what fields of captions have where none is text. Empty for texts, and where there is nothing."""
    flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
    texts = [item for item in flat if isinstance(item, str) and item.strip()]
    written = [text for text in texts if is_written_list(text)]
    if len(written) < len(texts):
        return ""
    others = [item for item in flat if item is not None and not isinstance(item, str) and item == item]  # not NaN
    others += written
    others = [item for item in others if not (isinstance(item, list | Mapping) and not item)]
    return f"its caption or tags are {described(others[0])}, not text" if others else ""


def has_boxes(text: str) -> bool:
    """Recognize a file with what an object detector found."""
    return HAS_BOXES.search(text) is not None


def telling_element(text: str) -> str | None:
    """Return the name of an XML element with a likely caption."""
    for found in ELEMENT.finditer(text):
        if WORD.search(ELEMENT_TAG.sub(" ", found[2])):
            return found[1]
    return None
