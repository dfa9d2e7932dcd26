"""Convert texts to values of options, and describe types; torch-free."""

import contextlib
import dataclasses
import difflib
import io
import json
import os
import shlex
import types
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from finetune.config.facts import options
from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml

NAMES: dict[object, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "path"}


def convert(hint: object, texts: list[str]) -> object:
    """Read a value of the type `hint` from texts. Raises ValueError where tyro cannot read one."""
    import tyro

    if typing.get_origin(hint) is tuple:
        part = typing.get_args(hint)[0]
        refuse_json_list(texts)
        return tuple(convert(part, [text]) for text in texts)
    if _is_entry(hint):
        return _entry(typing.cast(type, hint), texts[0])
    if len(texts) != 1 or (hint is Path and not texts[0]):  # Path("") would be the current folder
        raise ValueError
    option: Any = dataclasses.make_dataclass("Option", [("value", hint)])
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            arguments = [f"--value={texts[0]}"]
            parsed = tyro.cli(option, args=arguments, config=(tyro.conf.FlagConversionOff,), console_outputs=False)
            return parsed.value
        except SystemExit as error:
            raise ValueError from error


class EntryError(ValueError):
    """A wrong entry of a list of options; its text says why."""


def refuse_json_list(texts: Sequence[str]) -> None:
    """Refuse a list in JSON as a single value."""
    if len(texts) == 1 and texts[0].startswith("[") and texts[0].endswith("]"):
        try:
            parts: list[object] = json.loads(texts[0])
        except ValueError:
            return
        raise EntryError(f"got the list {texts[0]}, expected its values. Write {shlex.join(map(entry_text, parts))}.")


def entry_text(part: object) -> str:
    """Write an entry of a list as one text. Options are JSON, which is YAML too."""
    return json.dumps(part, ensure_ascii=False, default=str) if isinstance(part, dict) else str(part)


def _is_entry(hint: object) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _entry(kind: type, text: str) -> object:
    """Read an entry: its first option, or YAML such as {folder: a}."""
    hints = {option.key: option.hint for option in options(kind)}
    first = next(iter(hints))
    content: object = {first: text}
    if text.startswith("{"):
        try:
            content = load_yaml(text)
        except StrictYamlError as error:
            raise EntryError(f"got {text}, which {error}.") from None
    read: dict[str, object] = {}
    for key, value in typing.cast(dict[str, object], content).items():
        if key not in hints:
            ours = vars(kind).get("theirs", {}).get(key)
            meant = f" It is called {ours} here." if ours else suggestion(str(key), hints)
            raise EntryError(f"{key}: no such option of an entry.{meant} Expected {', '.join(hints)}.")
        parts = typing.cast(list[object], value) if isinstance(value, list) else [value]
        texts = [str(part) for part in parts]
        try:
            read[key] = convert(hints[key], [spelled(each, hints[key]) for each in texts])
        except ValueError:
            raise EntryError(f"{key}: got {' '.join(texts)}, expected {described(hints[key])}.") from None
    if first not in read:
        raise EntryError(f"got {text}, an entry without {first}. Add it.")
    return kind(**read)


def spelled(text: str, hint: object) -> str:
    """Spell booleans and none as tyro reads them, and expand `~/`."""
    kinds = typing.get_args(hint) or (hint,)
    word = text.strip().lower()
    if text.startswith("~/") and (Path in kinds or hint is str):  # in YAML and after = no shell has expanded it
        return os.path.expanduser(text)
    if bool in kinds and word in ("true", "yes", "on", "1"):
        return "True"
    if bool in kinds and word in ("false", "no", "off", "0"):
        return "False"
    if text == "False":  # what YAML makes of a bare off or no, where these are choices
        return next((choice for choice in choices(hint) if choice in ("off", "no")), text)
    return "None" if types.NoneType in kinds and word in ("none", "null", "") else text


def choices(hint: object) -> list[str]:
    """List the values of a type with a closed set."""
    found: list[str] = []
    for part in typing.get_args(hint):
        if typing.get_origin(hint) is typing.Literal:
            found.append(str(part))
        else:
            found += choices(part)
    return found


def described(hint: object) -> str:
    """Describe a type in words."""
    if hint in NAMES:
        return NAMES[hint]
    if _is_entry(hint):
        keys = [option.key for option in options(typing.cast(type, hint))]
        return f"a {keys[0]}, or a mapping with {', '.join(keys[:2])} and others"
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, parts))
    if typing.get_origin(hint) is tuple:
        return f"any number of values, each {described(parts[0])}"
    return " or ".join("none" if part is types.NoneType else described(part) for part in parts)


def placeholder(hint: object) -> Path | str:
    """Return a harmless value, so rules can check the other options."""
    return Path("missing") if hint is Path else "missing"


def suggestion(word: str, known: Collection[str]) -> str:
    """Suggest the nearest known word as " Did you mean ...?". Empty if none is near."""
    by_lower, word = {name.lower(): name for name in known}, word.lower()
    last = word.rpartition(".")[2]
    near = [last] if last in by_lower else difflib.get_close_matches(word, list(by_lower), n=1, cutoff=0.6)
    near = near or [name for name in by_lower if last == name.rpartition(".")[2]][:1]
    return f" Did you mean {by_lower[near[0]]}?" if near else ""
