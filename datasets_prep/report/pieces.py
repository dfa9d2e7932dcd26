"""The pieces that the report is put together from: texts made safe to show, thumbnails, cards and bars."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from datasets_prep.report.thumbnails import SmallImage
from finetune.report.charts import number

Row = Mapping[str, object]
"""A line of metadata.jsonl or of rejected.jsonl."""

MOST_THUMBNAILS = 1500
MOST_THUMBNAIL_BYTES = 14_000_000
MOST_LETTERS = 240


def name_html(name: object, most: int = MOST_LETTERS) -> str:
    """Returns a file name as HTML: what cannot be seen or would turn the line round is spelled out, long ones cut."""
    letters = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(name)[: most + 1])
    return f'<bdi class="name">{_cut(letters, most)}</bdi>'


def text_html(text: object, most: int = MOST_LETTERS) -> str:
    """Returns a text of the data set as HTML with its line breaks; what no HTML may hold becomes a sign for it."""
    letters = "".join(
        "\ufffd" if letter == "\0" or "\ud800" <= letter <= "\udfff" else letter for letter in str(text)[: most + 1]
    )
    return _cut(letters, most).replace("\r", "&#13;")


def _cut(letters: str, most: int) -> str:
    return escape(letters) if len(letters) <= most else escape(letters[:most]) + "…"


def value_text(value: object) -> str:
    """Returns a score as a short text."""
    return number(float(value), 3) if isinstance(value, int | float) else str(value)


def number_of(row: Row, key: str) -> float:
    """Returns a number of a row, 0 where there is none."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def texts_of(row: Row, key: str) -> list[str]:
    """Returns a list of texts in a row, an empty one where there is none."""
    value = row.get(key)
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def flags_html(row: Row) -> str:
    """Returns the flags of a picture as marks."""
    return " ".join(f'<span class="mark">{escape(flag)}</span>' for flag in texts_of(row, "flags"))


@dataclass(frozen=True)
class Thumbnail:
    """A small picture that the page holds once, as a rule of its style sheet."""

    css: str
    """Class of elements that show it."""
    width: int
    """Of the picture that it was made from, like height."""
    height: int


class Thumbnails:
    """Makes the page's small pictures, each once, until the page would be too large; the first to ask get theirs."""

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
        """Whether a picture was left without one for lack of room."""

    def of(self, source: str) -> Thumbnail | None:
        """Returns the thumbnail of a picture; None where it cannot be read or there is no more room."""
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
        """The pictures that somebody asked for and that had room."""
        return frozenset(self._made)

    @property
    def rules(self) -> str:
        """The style sheet that the elements need."""
        return "".join(self._rules)


def thumbnail_html(thumbnail: Thumbnail | None, inside: str = "", *, is_fitted: bool = False) -> str:
    """Returns the element that shows a thumbnail, square or, fitted, with the picture's own aspect."""
    if thumbnail is None:
        return '<i class="t none"></i>'
    shape = f' style="aspect-ratio:{thumbnail.width}/{thumbnail.height}"' if is_fitted else ""
    return f'<i class="t {thumbnail.css}"{shape}>{inside}</i>'


def card(row: Row, picture: str, lines: Iterable[str], classes: str = "", *, can_decide: bool = True) -> str:
    """Returns a picture with lines of HTML below; those whose content is known can be decided about."""
    sha256 = row.get("sha256")
    own = f' data-sha="{escape(sha256)}"' if can_decide and isinstance(sha256, str) else ""
    about = name_html(row.get("source", "")) + "".join(f"<small>{line}</small>" for line in lines if line)
    return f'<div class="pic {classes}"{own}>{picture}<div class="about">{about}</div></div>'


def strip(cards: Sequence[str]) -> str:
    """Returns cards in a line that scrolls sideways."""
    return f'<div class="strip">{"".join(cards)}</div>'


def folded(title: str, content: str, *, is_open: bool = False) -> str:
    """Returns a part that opens on a click; `title` is HTML."""
    return f"<details{' open' if is_open else ''}><summary>{title}</summary>{content}</details>"


def bars(rows: Sequence[tuple[str, int, str]], head: tuple[str, str, str]) -> str:
    """Returns a table of (name as HTML, count, more as HTML) with a bar as long as the count."""
    most = max((count for _, count, _ in rows), default=1) or 1
    lines = "".join(
        f'<tr><td>{name}</td><td class="right">{count:,}</td>{bar(count / most)}'
        + (f"<td>{more}</td></tr>" if head[2] else "</tr>")
        for name, count, more in rows
    )
    titles = f'<th>{head[0]}</th><th class="right">{head[1]}</th><th class="share"></th>' + (
        f"<th>{head[2]}</th>" if head[2] else ""
    )
    return f'<div class="wide"><table class="figures bars"><tr>{titles}</tr>{lines}</table></div>'


def bar(share: float) -> str:
    """Returns a table's cell with a bar, 0 to 1 of its width."""
    return f'<td class="share"><span class="bar" style="width:{100 * share:.1f}%"></span></td>'
