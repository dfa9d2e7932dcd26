"""Tables of other trainers' options, from TOML files; torch-free."""

import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

FOLDER = Path(__file__).parent
TABLES = ("sd_scripts", "diffusers", "simple_tuner", "one_trainer", "ai_toolkit")
"""Stems of the files. The first that knows a word answers for it."""
ANY, ABSENT, SAME = "*", "*absent", "="
LAUNCH = "launch"
Settings = Mapping[str, object]
Conditions = Mapping[str, tuple[str, ...]]
"""Their options, each with the values of which it must have one."""


def spelled_value(value: object) -> str:
    """Spell a value as the tables do. Lower case, and true or false."""
    return str(value).strip().lower()


def is_off(value: object) -> bool:
    """Check for a value that turns an option off, or is none."""
    return value in (None, False, 0, "", [], {}) or spelled_value(value) in ("false", "none", "null", "0", "0.0")


@dataclass(frozen=True)
class Row:
    """The counterpart of one of their options."""

    to: str | None = None
    """Our option."""
    conversion: str = ""
    """Name in `values.CONVERSIONS`; none passes the value on."""
    values: Settings | None = None
    """Their values; for each ours, or several of our options. Others have no counterpart."""
    default: object = None
    """Their value where none is given, or several of our options; empty where only a difference is named. None where
    ours is the same or does not matter."""
    differs: str = ""
    """What differs in meaning."""
    differs_for: Mapping[str, str] = field(default_factory=dict[str, str])
    """The same for single values."""
    none: str = ""
    """Why there is no counterpart, and what is nearest."""
    launch: str | None = None
    """Option of accelerate launch."""
    also: Settings = field(default_factory=dict[str, object])
    """Our options that are set, too."""
    when: Conditions = field(default_factory=dict[str, tuple[str, ...]])
    """The option acts only with these values of others."""
    unless: str | None = None
    """Their option in whose place this one acts."""
    methods: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    flow: bool = False
    """It acts on models of flow matching alone."""
    secret: bool = False
    """Its value is never shown."""

    def holds(self, given: Settings) -> bool:
        """Check the conditions on other options of theirs."""
        replaced = self.unless is not None and not is_off(given.get(self.unless))
        return not replaced and all(matches(given, key, values) for key, values in self.when.items())


def matches(given: Settings, key: str, values: Sequence[str]) -> bool:
    """Check whether one of their options has one of the values."""
    if key not in given:
        return ABSENT in values
    value = spelled_value(given[key])
    return any(fnmatch.fnmatchcase(value, each.lower()) for each in values if each != ABSENT)


@dataclass(frozen=True)
class Refusal:
    """Values of an option that train what no recipe trains."""

    option: str
    """The option, or a pattern of several."""
    why: str
    values: tuple[str, ...] = (ANY,)
    but: tuple[str, ...] = ()
    """Values that are not concerned."""
    but_options: tuple[str, ...] = ()
    """Options that are not concerned."""

    def refused(self, given: Settings) -> str | None:
        """Return the option that is refused, with its value. None for no such one."""
        for key, value in given.items():
            is_meant = fnmatch.fnmatchcase(key, self.option) and key not in self.but_options
            if is_meant and matches(given, key, self.values) and not matches(given, key, self.but):
                return key if self.option != key else f"{key} {value}"
        return None


@dataclass(frozen=True)
class Table:
    """All that is known of a trainer's options."""

    name: str
    files: str
    """What it reads, in words."""
    options: Mapping[str, tuple[Row, ...]]
    """Rows by option or pattern; of several the first that holds counts."""
    flow: Conditions
    """One of these tells that the model is one of flow matching."""
    unsaid: Mapping[str, str]
    """Their options, by ours, whose defaults no table can say."""
    environment: Mapping[str, str]
    """Names in an environment file that are not the option's in capitals."""
    scripts: str
    """Pattern of the names of its scripts."""
    constant_without_warmup: bool
    refused: tuple[Refusal, ...] = ()
    """What no recipe trains."""

    def rows(self, key: str) -> tuple[Row, ...]:
        """Return the rows of an option; none for an unknown one."""
        if key in self.options:
            return self.options[key]
        return next((rows for name, rows in self.options.items() if ANY in name and fnmatch.fnmatchcase(key, name)), ())


@cache
def table(stem: str) -> Table:
    """Read a table."""
    content: dict[str, Any] = tomllib.loads((FOLDER / f"{stem}.toml").read_text(encoding="utf-8"))
    options: dict[str, Any] = content["options"]
    return Table(
        name=content["name"],
        files=content["files"],
        options={key: _rows(rows) for key, rows in options.items()},
        flow=_conditions(content.get("flow", {})),
        unsaid=content.get("unsaid", {}),
        environment=content.get("environment", {}),
        scripts=content.get("scripts", ""),
        constant_without_warmup=content.get("constant_without_warmup", False),
        refused=tuple(map(_refusal, content.get("refused", ()))),
    )


def all_tables() -> list[Table]:
    """Read the tables of all trainers."""
    return [table(stem) for stem in TABLES]


def _rows(value: object) -> tuple[Row, ...]:
    if isinstance(value, list):
        return tuple(row for part in cast(list[object], value) for row in _rows(part))
    if isinstance(value, str):
        return (Row(to=value),)
    fields = dict(cast(dict[str, Any], value))
    if "as" in fields:
        fields["conversion"] = fields.pop("as")
    if "values" in fields:
        fields["values"] = {str(key).lower(): ours for key, ours in fields["values"].items()}
    for name in ("methods", "recipes"):
        fields[name] = tuple(fields.get(name, ()))
    fields["when"] = _conditions(fields.get("when", {}))
    return (Row(**fields),)


def _refusal(found: Mapping[str, Any]) -> Refusal:
    lists = {key: tuple(cast(list[str], found[key])) for key in ("values", "but", "but_options") if key in found}
    return Refusal(str(found["option"]), str(found["why"]), **lists)


def _conditions(found: Mapping[str, object]) -> Conditions:
    return {
        key: tuple(map(spelled_value, cast(list[object], values) if isinstance(values, list) else [values]))
        for key, values in found.items()
    }
