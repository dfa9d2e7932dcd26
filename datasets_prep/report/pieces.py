"""Common pieces of the report: templates, escaped texts and thumbnails."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment
from markupsafe import Markup, escape

from datasets_prep.report.thumbnails import SmallImage
from finetune.plurals import plural
from finetune.report.charts import number
from finetune.report.page import templates

Row = Mapping[str, object]
"""A line of metadata.jsonl or rejected.jsonl."""

MOST_THUMBNAILS = 1500
MOST_THUMBNAIL_BYTES = 14_000_000
MOST_LETTERS = 240


@cache
def environment() -> Environment:
    """Return the templates of this report, with filters for datasets."""
    made = templates("datasets_prep")
    made.filters |= {"name": name_html, "text": text_html, "score": value_text}
    made.filters |= {"plural": plural, "thousands": "{:,}".format}
    return made


def render(template: str, part: str, *values: object) -> Markup:
    """Fill a part (a macro) of a template with values."""
    return getattr(environment().get_template(template).module, part)(*values)


def nothing(text: str) -> Markup:
    """Return a note in place of a part that is missing."""
    return render("parts.html", "nothing", text)


def name_html(name: object, most: int = MOST_LETTERS) -> Markup:
    """Format a file name as HTML, shortened. Invisible characters and changes of direction are spelled out."""
    letters = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(name)[: most + 1])
    return Markup('<bdi class="name">{}</bdi>').format(_cut(letters, most))


def text_html(text: object, most: int = MOST_LETTERS) -> Markup:
    """Format a text as HTML with its line breaks, shortened. Characters that HTML cannot contain are replaced."""
    letters = "".join(
        "\ufffd" if letter == "\0" or "\ud800" <= letter <= "\udfff" else letter for letter in str(text)[: most + 1]
    )
    return Markup(str(escape(_cut(letters, most))).replace("\r", "&#13;"))


def _cut(letters: str, most: int) -> str:
    return letters if len(letters) <= most else letters[:most] + "…"


def value_text(value: object) -> str:
    """Format a score as a short text."""
    return number(float(value), 3) if isinstance(value, int | float) else str(value)


def number_of(row: Row, key: str) -> float:
    """Read a number of a row, 0 without one."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def texts_of(row: Row, key: str) -> list[str]:
    """Read a list of texts in a row, empty without one."""
    value = row.get(key)
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


@dataclass(frozen=True)
class Thumbnail:
    """A small image, stored once in the page's style sheet."""

    css: str
    """Class of the elements that show it."""
    width: int
    """Of the original image, like height."""
    height: int


class Thumbnails:
    """The small images of the page, each made once. Where it gets too large, the first asked for get theirs."""

    def __init__(
        self,
        load: Callable[[str], SmallImage | None],
        most: int = MOST_THUMBNAILS,
        most_bytes: int = MOST_THUMBNAIL_BYTES,
    ) -> None:
        self._load, self._most, self._most_bytes = load, most, most_bytes
        self._made: dict[str, Thumbnail | None] = {}
        self._rules: list[str] = []
        self._num_bytes = 0
        self.is_full = False
        """Whether an image was left without one for lack of room."""

    def of(self, source: str) -> Thumbnail | None:
        """Return the thumbnail of an image. It is None if the image cannot be read or the report is full."""
        if source not in self._made:
            if len(self._rules) >= self._most or self._num_bytes >= self._most_bytes:
                self.is_full = True
                return None
            small = self._load(source)
            self._made[source] = None if small is None else self._added(small)
        return self._made[source]

    def _added(self, small: SmallImage) -> Thumbnail:
        css = f"p{len(self._rules)}"
        data = base64.b64encode(small.webp).decode("ascii")
        self._rules.append(f".{css}{{background-image:url(data:image/webp;base64,{data})}}\n")
        self._num_bytes += len(self._rules[-1])
        return Thumbnail(css, small.width, small.height)

    @property
    def sources(self) -> frozenset[str]:
        """The images that were asked for while there was room."""
        return frozenset(self._made)

    @property
    def rules(self) -> str:
        return "".join(self._rules)
