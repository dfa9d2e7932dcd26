"""Images as their dataset lists them, and the collection of its mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeGuard

from finetune.data.captions.text import TAG_WORDS, has_words, is_unicode, is_written_list
from finetune.plurals import NUM_SHOWN, first_few

LEAST_TAGS = 3
NOT_TEXT = "captions that are not text; name a column of texts, or write the part that is the caption as one"

Split = Literal["train", "validation"]


class ImageSource(Protocol):
    """The bytes of images; picklable, for workers of a data loader."""

    def read(self, file_name: str) -> bytes:
        """Return an image's original bytes. Raises OSError or ValueError with a reason."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One image as its dataset lists it."""

    file_name: str
    captions: tuple[str, ...]
    weight: float = 1.0
    repeats: int = 1
    split: Split | None = None


class FindingItems:
    """The number of items and the first few. The rest of millions is dropped."""

    def __init__(self) -> None:
        self.count = 0
        self.items: list[str] = []

    def add(self, item: str) -> None:
        """Count an item."""
        self.extend(1, [item])

    def extend(self, count: int, items: Sequence[str]) -> None:
        """Count items, of which the first are given."""
        self.count += count
        self.items += items[: NUM_SHOWN - len(self.items)]


class Findings:
    """Errors and warnings by kind, in the order met, reported together."""

    def __init__(self) -> None:
        self._errors: dict[str, FindingItems] = {}
        self._warnings: dict[str, FindingItems] = {}

    def error(self, kind: str, item: str) -> None:
        """Note something that training must not start with."""
        self._errors.setdefault(kind, FindingItems()).add(item)

    def warn(self, kind: str, item: str) -> None:
        """Note something that training can live with but a user should know."""
        self._warnings.setdefault(kind, FindingItems()).add(item)

    def raise_errors(self, heading: str, advice: str) -> None:
        """Raise a ValueError with every kind's count and first items, if any."""
        if self._errors:
            raise ValueError("\n  ".join([heading, *_lines(self._errors)]) + "\n" + advice)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for every kind of warning."""
        return tuple(_lines(self._warnings))

    @property
    def counted(self) -> dict[str, tuple[int, list[str]]]:
        """Kinds of warnings with their counts and first items, for a file."""
        return {kind: (each.count, each.items) for kind, each in self._warnings.items()}

    @property
    def has_errors(self) -> bool:
        """True where training must not start."""
        return bool(self._errors)

    def add_counted(self, warnings: Mapping[str, tuple[int, list[str]]]) -> None:
        """Add warnings as `counted` returned them."""
        for kind, (count, items) in warnings.items():
            self._warnings.setdefault(kind, FindingItems()).extend(count, items)

    def errors_of(self, kind: str) -> list[str]:
        """Return the first items of a kind of errors."""
        return self._errors[kind].items if kind in self._errors else []

    def add_errors(self, other: "Findings") -> None:
        """Add the errors of a part of the dataset."""
        for kind, each in other._errors.items():
            self._errors.setdefault(kind, FindingItems()).extend(each.count, each.items)


def _lines(found: dict[str, FindingItems]) -> list[str]:
    return [f"{kind} ({each.count:,}): {first_few(each.items, each.count)}" for kind, each in found.items()]


def read_captions(values: list[object], where: str, findings: Findings) -> tuple[str, ...]:
    """Return the captions of an image's caption columns, stripped, each once. A value is a string, a list of strings or
    None. Blank strings do not count; anything else is noted."""
    flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
    captions: dict[str, None] = {}
    if values and are_tags(values[0]):
        findings.warn("lists of short texts, each of which is a caption to draw from; join tags of one caption", where)
    for item in flat:
        if item is None:
            continue
        if not isinstance(item, str) or is_written_list(item):
            findings.error(NOT_TEXT, f"{where} ({described(item)})")
            return ()
        if "\0" in item or not is_unicode(item):
            findings.error("captions with NUL or broken Unicode", where)
            return ()
        if item.strip() and not has_words(item):
            findings.warn("captions without a word, such as ., or nan, which are not used", where)
        elif item.strip():
            captions[item.strip()] = None
    if not captions:
        findings.error("images without a caption", where)
    elif any(isinstance(item, str) and not item.strip() for item in flat):
        findings.warn("images with a blank caption among others, which is left out", where)
    return tuple(captions)


def described(value: object) -> str:
    """Describe a value that is not a caption. An object has keys."""
    if isinstance(value, str):
        return f"a list or an object written as text: {value.strip()[:40]}"
    if not isinstance(value, Mapping):
        return type(value).__name__
    return f"an object with {first_few([str(key) for key in value]) or 'nothing'}"


def are_tags(value: object) -> bool:
    """Tell if a list seems to be the tags of one caption."""
    texts = [item for item in value if isinstance(item, str)] if isinstance(value, list | tuple) else []
    return len(texts) >= LEAST_TAGS and all(len(text.split()) <= TAG_WORDS for text in texts)


def read_entry(name: str, captions: tuple[str, ...], row: Mapping[str, object], findings: Findings) -> Entry:
    """Return an image with its row's weight, repeats and split. Notes invalid ones, and takes the usual instead."""
    weight, repeats, split = row.get("weight"), row.get("repeats"), row.get("split")
    if weight is not None and not (_is_number(weight) and 0 < weight <= 1e6):
        findings.error("weights that are not a number above 0, at most 1,000,000", f"{name} ({weight!r})")
        weight = None
    if repeats is not None and not (_is_number(repeats) and 1 <= repeats <= 1e6 and repeats == int(repeats)):
        findings.error("repeats that are not a whole number from 1 to 1,000,000", f"{name} ({repeats!r})")
        repeats = None
    if split not in (None, "train", "validation"):
        findings.error('splits that are neither "train" nor "validation"', f"{name} ({split!r})")
        split = None
    return Entry(name, captions, float(weight or 1), int(repeats or 1), split)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
