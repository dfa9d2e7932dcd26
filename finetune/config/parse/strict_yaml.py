"""YAML within limits: no alias bombs, circles, endless nesting or repeated keys. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

MAX_CHARACTERS = 200_000
MAX_VALUES = 5_000
"""PyYAML needs over a second for more; the longest preset has 60."""
MAX_DEPTH = 20
MAX_ALIASES = 16
"""So few that their expansion, each containing others, stays small."""
MERGE = "<<"


class StrictYamlError(ValueError):
    """The reason why YAML is refused, in words after "config: FILE"."""


@dataclass
class _Open:
    """A mapping or list whose end is not read yet."""

    anchor: str | None
    is_mapping: bool
    keys: set[str] = field(default_factory=set[str])
    expects_key: bool = True


def load_yaml(text: str, *, most_characters: int = MAX_CHARACTERS, most_values: int = MAX_VALUES) -> object:
    """Return the contents of YAML text in plain types. Raises StrictYamlError for what nobody writes by hand, too."""
    if len(text) > most_characters:
        raise StrictYamlError(f"holds {len(text):,} characters, expected options, at most {most_characters:,}")
    try:
        _check(text, most_values)
        return yaml.safe_load(text)
    except StrictYamlError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # dates and numbers raise the others
        raise StrictYamlError(f"is not valid YAML: {' '.join(str(error).split())}") from error


def _check(text: str, most_values: int) -> None:
    """Check the text event by event. This needs neither recursion nor the memory of expanded aliases."""
    levels: list[_Open] = []
    num_aliases = 0
    events: Iterator[yaml.Event] = cast(Any, yaml).parse(text, Loader=yaml.SafeLoader)  # its stub leaves out the types
    for number, event in enumerate(events):
        if number > most_values:
            raise StrictYamlError(f"holds more than {most_values:,} values, expected options")
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            levels.pop()
            continue
        if isinstance(event, yaml.AliasEvent):
            num_aliases += 1
            if any(level.anchor == event.anchor for level in levels):
                raise StrictYamlError(f"holds itself: *{event.anchor} in {line} is inside &{event.anchor}")
            if num_aliases > MAX_ALIASES:
                raise StrictYamlError(f"holds more than {MAX_ALIASES} aliases (*{event.anchor} in {line})")
        if isinstance(event, (yaml.AliasEvent, yaml.ScalarEvent, yaml.CollectionStartEvent)) and levels:
            _take(levels[-1], event, line)
        if isinstance(event, yaml.CollectionStartEvent):
            levels.append(_Open(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(levels) > MAX_DEPTH:
                raise StrictYamlError(f"is nested more than {MAX_DEPTH} levels deep in {line}")


def _take(level: _Open, event: yaml.Event, line: str) -> None:
    """Record that a key, a value or a list item begins."""
    if not level.is_mapping:
        return
    if level.expects_key and isinstance(event, yaml.ScalarEvent):
        if event.value in level.keys and event.value != MERGE:
            raise StrictYamlError(f"gives {event.value} twice, again in {line}; keep one")
        level.keys.add(event.value)
    level.expects_key = not level.expects_key
