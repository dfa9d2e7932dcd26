"""Read the text of caption files, and choose its usable parts."""

import fnmatch
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from finetune.data.captions.rewrite import CaptionEdits
from finetune.data.captions.text import CaptionLines, decode_text, has_words, is_unicode, is_written_list, looks_misread
from finetune.data.listing import Findings

Read = Callable[[str], bytes]
"""Gives a file's bytes by its name."""


@dataclass(frozen=True)
class CaptionReading:
    """Options of reading captions, and their names for messages."""

    column: str = "text"
    lines: CaptionLines | None = None
    """What several lines of a text file are; None is alternatives, with a warning, and refuses what seems wrapped."""
    unread: str = "data.captions is none"
    """Why captions are not read where none are wanted."""
    is_training: bool = True
    """Whether a file that cannot be read is an error, as for a recipe; preparation notes it and continues."""
    keeps_rating: bool = False
    """Whether the rating of a gallery's image is a tag, as rating:explicit."""
    ignored: tuple[str, ...] = ()
    """Patterns of file names that are not captions."""
    edits: CaptionEdits = field(default_factory=CaptionEdits)
    """What is done to the captions that were read."""

    @property
    def lines_option(self) -> str:
        return "data.caption_lines" if self.is_training else "captions.lines"

    @property
    def rating_option(self) -> str:
        return "data.keep_rating" if self.is_training else "captions.keep_rating"

    @property
    def ignoring(self) -> str:
        """Say what to do about files that are not captions."""
        away = "move these away"
        return away if self.is_training else f"{away}; where they are not captions: --captions.ignore '*.ENDING'"

    def is_ignored(self, name: str) -> bool:
        """Tell if a file is said not to have captions."""
        base = posixpath.basename(name).lower()
        return any(fnmatch.fnmatchcase(base, pattern.lower()) for pattern in self.ignored)

    @property
    def column_option(self) -> str:
        return "data.caption_column" if self.is_training else "caption_column"


DEFAULT_READING = CaptionReading()


class UnreadableTextError(ValueError):
    """An unreadable text file; its text says why."""


def read_text(read: Read, name: str, findings: Findings) -> str:
    """Return the text of a file, and note a guessed encoding. Raises UnreadableTextError."""
    try:
        data = read(name)
    except OSError as error:
        raise UnreadableTextError(error.strerror or str(error)) from error
    except ValueError as error:
        raise UnreadableTextError(str(error)) from error
    text, is_guess = decode_text(data)
    if is_guess and looks_misread(text):
        raise UnreadableTextError(
            "in an encoding that is not read, such as Shift-JIS, GBK or Windows-1251; save it as UTF-8"
        )
    if is_guess:
        findings.warn("text files in neither UTF-8 nor UTF-16, read as Windows-1252", name)
    return text


def usable_texts(values: Iterable[object], where: str, findings: Findings) -> list[str]:
    """Return the usable captions of a table or JSON. Values are texts and lists of them, to be stripped."""
    flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
    texts = []
    for item in flat:
        if item is None:
            continue
        if not isinstance(item, str):
            findings.warn("captions that are not text, which are not used", f"{where} ({type(item).__name__})")
        elif is_written_list(item):
            findings.warn("captions that are lists or objects written as text, which are not used", where)
        elif "\0" in item or not is_unicode(item):
            findings.warn("captions with NUL or broken Unicode, which are not used", where)
        elif item.strip() and not has_words(item):
            findings.warn("captions without a word, such as ., or nan, which are not used", where)
        elif item.strip():
            texts.append(item.strip())
    return list(dict.fromkeys(texts))
