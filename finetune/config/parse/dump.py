"""Write configs as YAML; read or replace single options; torch-free."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from finetune.config.facts import values
from finetune.config.parse.command_line import Config, flat_types, read_yaml
from finetune.config.parse.convert import convert, spelled


def with_options(config: Config, values: dict[str, object]) -> Config:
    """Replace some of the config's values, by dotted key. Its rules are checked once."""
    changed: dict[str, object] = {}
    for item in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value, prefix = vars(config)[item.name], f"{item.name}."
        inner = {key.removeprefix(prefix): new for key, new in values.items() if key.startswith(prefix)}
        if inner:
            changed[item.name] = with_options(value, inner)
        elif item.name in values:
            changed[item.name] = values[item.name]
    return dataclasses.replace(config, **changed)  # pyright: ignore[reportArgumentType, reportReturnType, reportUnknownVariableType]


def read_options(path: Path, kind: type, keys: Sequence[str]) -> dict[str, Any]:
    """Read some options from a YAML file that `dump` wrote. They are typed as `kind`; absent ones are omitted."""
    texts, types_by_key = read_yaml(path)[0], flat_types(kind)
    return {
        key: convert(types_by_key[key], [spelled(text, types_by_key[key]) for text in texts[key]])
        for key in keys
        if key in texts and key in types_by_key
    }


def dump(config: object) -> str:
    """Write the config as YAML that `parse` reads back unchanged."""
    write: Callable[..., str] = yaml.safe_dump
    return write(as_plain(config), sort_keys=False, allow_unicode=True, width=120)


def as_plain(value: object) -> object:
    """Convert nested dataclasses to nested dicts of YAML's own types."""
    if dataclasses.is_dataclass(value):
        return {item.name: as_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_entry(part) for part in cast(tuple[object, ...], value)]
    return str(value) if isinstance(value, Path) else value


def _entry(part: object) -> object:
    """Convert an entry of a list, without options at their defaults."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return as_plain(part)
    given = [item.name for item in dataclasses.fields(part) if vars(part)[item.name] != item.default]
    return {name: as_plain(vars(part)[name]) for name in given}


def as_flat(config: object) -> dict[str, Any]:
    """List every option by dotted name, in YAML's own types. An example is `{"optim.lr": 1e-4, ...}`."""
    return {key: as_plain(value) for key, value in values(config)}
