"""Annotations of options: bounds, changes on resume, use; torch-free. An option is a field such as `rank:
Annotated[Count, Resume.FIXED] = 16`; a mark on a section holds for the options in it that have none of their own."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, auto
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")
Marks = tuple[object, ...]


@dataclass(frozen=True)
class Bound:
    """The values that an option accepts, besides none."""

    accepts: Callable[[Any], bool]
    expected: str
    hint: str = ""


def at_least(least: float, unit: str = "", hint: str = "") -> Bound:
    """Accept a number from `least` on."""
    return Bound(lambda value: value >= least, f"{least} or more {unit}".rstrip(), hint)


def above_zero(hint: str = "") -> Bound:
    """Accept a number above 0."""
    return Bound(lambda value: value > 0, "a number above 0", hint)


def between(least: float, most: float, expected: str) -> Bound:
    """Accept a number from `least` to `most`."""
    return Bound(lambda value: least <= value <= most, expected)


def not_empty(expected: str) -> Bound:
    """Accept text that is not blank."""
    return Bound(lambda value: value.strip() != "", expected)


Count = Annotated[int, at_least(1)]
CountOrZero = Annotated[int, at_least(0)]
Positive = Annotated[float, above_zero()]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, between(0, 1, "a share from 0 to 1")]
ShareBelowOne = Annotated[float, Bound(lambda value: 0 <= value < 1, "a share from 0 to below 1")]
Decay = Annotated[float, Bound(lambda value: 0 < value < 1, "a number between 0 and 1")]
Seed = Annotated[int, between(0, 2**63 - 1, "0 to 2^63 - 1")]


class ActsWith:
    """An option that needs certain values of another in its section."""

    def __init__(self, other: str, *values: object) -> None:
        self.other, self.values = other, values


class OneOf:
    """An option that is needed unless another is given. Both contradict."""

    def __init__(self, other: str) -> None:
        self.other = other


class Resume(Enum):
    """The part of an option in a continued run."""

    NAMED = auto()
    """It may change, and the run names the change; every option without another mark."""
    FREE = auto()
    """It may change: it does not alter what is learned."""
    EXPORTED = auto()
    """As FREE, but what was exported with another value is exported again."""
    MAY_GROW = auto()
    FIXED = auto()
    """It cannot change: it decides which tensors a checkpoint holds and of what shape."""
    FOUND = auto()
    """As FIXED; where none is given, it is found while the run is assembled and is then in its config."""


class Mark(Enum):
    """The use of an option, for those who search all options."""

    PROMPT = auto()
    """Text that a model reads: prompts, and the template of captions."""
    PROMPT_LIST = auto()
    """Prompts in the notation of config/drawing/options.py; a path among them is read as a file of prompts."""
    READ = auto()
    """A folder that is only read, or the id of a dataset."""
    MODEL = auto()
    """It may name the folder of a model."""
    START = auto()
    """A file that the trained weights start from; a run continues with the same content alone."""
    COMMIT = auto()
    """It may look like an access token."""
    ENDLESS = auto()
    """A number that may be infinite, such as a limit that is then none."""
    PROPOSED = auto()
    """A number that a goal proposes."""


@dataclass(frozen=True)
class Option:
    """An option of a config class, and what its annotation says."""

    key: str
    """Dotted name."""
    hint: object
    """Type without annotations."""
    default: object
    """Of the section; MISSING where there is none."""
    is_required: bool
    """Whether neither the option nor its section has a default."""
    marks: Marks
    """The annotations, those of its section after its own."""

    def of(self, kind: type[Kind]) -> list[Kind]:
        """List the annotations of a kind."""
        return [mark for mark in self.marks if isinstance(mark, kind)]

    @property
    def resume(self) -> Resume:
        """The mark that is nearest to the option."""
        return next(iter(self.of(Resume)), Resume.NAMED)


@cache
def options(kind: type, prefix: str = "", is_required: bool = True, marks: Marks = ()) -> tuple[Option, ...]:
    """List the options of a config class with those of its sections."""
    plain, annotated = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    found: list[Option] = []
    for item in fields(kind):
        key, own = f"{prefix}{item.name}", (*annotations(annotated[item.name]), *marks)
        required = is_required and item.default is MISSING and item.default_factory is MISSING
        if is_dataclass(plain[item.name]):
            found += options(plain[item.name], f"{key}.", required, own)
        else:
            found.append(Option(key, plain[item.name], item.default, required, own))
    return tuple(found)


def annotations(hint: object) -> Marks:
    """Return a type's annotations, the outermost first. Those of the types in a union are included."""
    if get_origin(hint) is Annotated:
        inner, *own = get_args(hint)
        return (*own, *annotations(inner))
    parts = [part for part in get_args(hint) if get_origin(part) is Annotated]
    return tuple(mark for part in parts for mark in annotations(part))


def values(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every option of a config with name and value. Names are dotted."""
    for name, value in vars(config).items():
        if is_dataclass(value):
            yield from values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def marked(kind: type, *marks: Resume | Mark) -> list[str]:
    """List the dotted names of options with one of these marks."""
    return [option.key for option in options(kind) if {option.resume, *option.of(Mark)} & set(marks)]
