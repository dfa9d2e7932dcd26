"""YAML files and flags to configs, and back; torch-free. Every mistake is reported at once."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast, get_origin, get_type_hints

from finetune.config.checks import SECRET_PATTERN
from finetune.config.drawing.files import with_files_read
from finetune.config.facts import Mark, OneOf, marked, options
from finetune.config.parse.advice import meant_option, meant_text
from finetune.config.parse.convert import (
    EntryError,
    convert,
    described,
    entry_text,
    placeholder,
    spelled,
)
from finetune.config.parse.help import print_help
from finetune.config.parse.other_trainers import counterparts
from finetune.config.parse.run_id import with_run_id
from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.config.parse.versions import print_versions

Config = TypeVar("Config")

OF_ONE_RUN = ("output.folder", "output.mirror")

DASHES = "-\N{EN DASH}\N{EM DASH}"
"""Word processors make one dash of two hyphens."""
YAML = re.compile(r"\w+(\.\w+)+:[^=]*")
SHORT = re.compile(r"-(?!(?:inf|nan|infinity)$)([a-z][\w.]*)(?:=.*)?", re.IGNORECASE | re.DOTALL)
"""An option with a single hyphen."""


def plain_file(given: str) -> Path:
    """Return the file that `--config` names. Raises ValueError if it does not exist."""
    if not Path(given).is_file():
        raise ValueError(f"config: no file {given}. Expected a YAML file.")
    return Path(given)


def parse(
    kind: type[Config], arguments: Sequence[str], *, program: str, find_file: Callable[[str], Path] = plain_file
) -> Config:
    """Read a config from `--config FILE` and flags; flags win. `find_file` returns the path that `--config` names.

    Raises ValueError with a line for every unknown key, unusable value and contradiction, SystemExit after `--help`.
    """
    return parse_given(kind, arguments, program=program, find_file=find_file)[0]


def parse_given(
    kind: type[Config],
    arguments: Sequence[str],
    *,
    program: str,
    find_file: Callable[[str], Path] = plain_file,
    elsewhere: Callable[[str], str] = lambda key: "",
) -> tuple[Config, frozenset[str]]:
    """Read a config as `parse`, and list the given options. `elsewhere` returns a sentence about an unknown option that
    another program has, or nothing."""
    if {"-h", "--help", "--help-all"} & set(arguments):
        print_help(kind, program)
    if "--version" in arguments:
        print_versions()
    types_by_key, required = flat_types(kind), required_keys(kind)
    given, found = given_texts(arguments, types_by_key, find_file)
    renamed: set[str | None] = set()
    for key in sorted(set(given) - set(types_by_key)):
        texts = given.pop(key)
        renamed.add(counterparts().get(key))
        meant = elsewhere(key) or meant_option(key, types_by_key, texts)
        found.append(f"{key}: no such option.{meant} Run with --help-all for all.")
    for key in set(given) & set(marked(kind, Mark.PROMPT_LIST)):
        given[key], wrong = with_files_read(given[key], key)
        found += wrong
    for key in [key for key in OF_ONE_RUN if key in given]:
        given[key], wrong = with_run_id(given[key], key)
        found += wrong
    read: dict[str, object] = {}
    for key, texts in given.items():
        try:
            read[key] = convert(types_by_key[key], [spelled(text, types_by_key[key]) for text in texts])
        except EntryError as error:
            found.append(f"{key}: {error}")
        except ValueError:
            got, hint = " ".join(texts) or "nothing", types_by_key[key]
            found.append(f"{key}: got {got}, expected {described(hint)}.{meant_text(key, texts, hint)}")
            read[key] = placeholder(types_by_key[key]) if key in required else dataclasses.MISSING
    told = {problem.partition(":")[0] for problem in found} | renamed
    for key in required:
        if key not in read and not told & {key, "config"}:  # a file that does not read may have given it
            found.append(
                f"{key}: missing, expected {described(types_by_key[key])}. Give --{key} or set it in the YAML file."
            )
        read.setdefault(key, placeholder(types_by_key[key]))
    for key, other in one_of(kind).items():  # a file that does not read may have given one of both
        if read.get(key, dataclasses.MISSING) is dataclasses.MISSING and told & {key, other, "config"}:
            read |= {key: placeholder(types_by_key[key]), other: ()}
    try:
        config = build(kind, read)
    except ValueError as error:
        raise ValueError("\n".join([*found, str(error)])) from None
    if found:
        raise ValueError("\n".join(found))
    return config, frozenset(given)


def given_texts(
    arguments: Sequence[str], types_by_key: dict[str, object], find_file: Callable[[str], Path] = plain_file
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the options of `--config FILE` and flags, and the problems. Keys may be unknown."""
    given, found = read_flags(arguments, types_by_key)
    for key in [key for key, texts in given.items() if not all(map(_is_utf8, [key, *texts]))]:
        advice = "Write it into the file of --config, which is UTF-8, or rename the file or folder that it names."
        found.append(f"{ascii(key)[1:-1]}: got {' '.join(given.pop(key))!a}, expected text in UTF-8. {advice}")
    sources = given.pop("config", None)
    if sources is not None and len(sources) == 1:
        try:
            from_file, more = read_yaml(find_file(sources[0]))
        except ValueError as error:
            from_file, more = {}, [str(error)]
        sections = {key.rpartition(".")[0] for key in types_by_key}
        used = {key: texts for key, texts in from_file.items() if key not in sections or texts != ["None"]}
        given, found = used | given, found + more
    elif sources is not None:
        found.append(f"config: got {' '.join(sources) or 'nothing'}, expected one YAML file.")
    return given, found


def _is_utf8(text: str) -> bool:
    return text == text.encode("utf-8", "ignore").decode()


def flat_types(kind: type) -> dict[str, object]:
    """Return the type of every option by dotted name."""
    return {option.key: option.hint for option in options(kind)}


def required_keys(kind: type) -> list[str]:
    """Return the dotted names of options without a default."""
    return [option.key for option in options(kind) if option.is_required]


def one_of(kind: type) -> dict[str, str]:
    """Map needed options to those that may be given instead."""
    found = options(kind)
    return {each.key: f"{each.key.rpartition('.')[0]}.{fact.other}" for each in found for fact in each.of(OneOf)}


def read_flags(arguments: Sequence[str], known: dict[str, object]) -> tuple[dict[str, list[str]], list[str]]:
    """Return `--key value ...` and `--key=value` by key, and the problems. A key that is given twice is one."""
    given: dict[str, list[str]] = {}
    found: list[str] = []
    repeated: dict[str, list[list[str]]] = {}
    key = None

    def begin(name: str, texts: list[str]) -> None:
        if name in given:
            repeated.setdefault(name, []).append(given[name])
        given[name] = texts

    for argument in arguments:
        bare = argument.lstrip(DASHES)
        name, assigned, text = bare.partition(":" if YAML.fullmatch(bare) else "=")
        has_dash = not argument.startswith(name)
        if argument and not argument.strip("-=") and argument != "-":
            found.append(f"{argument}: expected --NAME VALUE or --NAME=VALUE, without spaces around the =.")
        elif argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            key = key.replace("-", "_")
            begin(key, [value] if equals else [])
        elif (name in known and (assigned or has_dash or key is None or "." in name)) or (
            SHORT.fullmatch(argument) and get_origin(known.get(key or "")) is not tuple
        ):
            plain = f"{name} {text}" if assigned == ":" and text else bare.rstrip(":")
            write = f" Write --{plain}." if name in known else ""
            found.append(f"{argument}: options begin with two hyphens.{write}")
            key = name
            begin(key, [text] if text else [])
        elif key is None:
            found.append(f"{argument}: expected an option that begins with --. A preset or YAML file is --config FILE.")
        else:
            given[key].append(argument)
    for key, texts in given.items():
        if not texts and known.get(key) is bool:
            texts.append("True")
    for name, earlier in repeated.items():
        nothing = "true" if known.get(name) is bool else "nothing"
        values = " and then ".join(" ".join(texts) or nothing for texts in [*earlier, given[name]])
        listed = "" if SECRET_PATTERN.search(values) else f", {values}"
        more = f", or give all to --{name}s" if f"{name}s" in known else ""
        found.append(f"{name}: given {len(earlier) + 1} times{listed}. Keep one{more}.")
    return given, [text if _is_utf8(text) else ascii(text)[1:-1] for text in found]


def read_yaml(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the file's options like flags, and the problems."""
    if not path.is_file():
        return {}, [f"config: no file {path}. Presets of recipes are in recipes/configs."]
    try:
        content = cast(object, load_yaml(path.read_text(encoding="utf-8")) or {})
    except UnicodeDecodeError as error:
        return {}, [f"config: {path} is not a text in UTF-8: {error}. Save it as UTF-8."]
    except StrictYamlError as error:
        return {}, [f"config: {path} {error}."]
    except OSError as error:
        return {}, [f"config: {path} cannot be read: {error.strerror}."]
    if not isinstance(content, dict):
        return {}, [f"config: {path} holds {type(content).__name__}, expected sections such as `model:`."]
    given: dict[str, list[str]] = {}
    found: list[str] = []

    def walk(section: dict[object, object], prefix: str) -> None:
        for name, value in section.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict):
                walk(cast(dict[object, object], value), f"{key}.")
                continue
            if key in given:
                found.append(f"{key}: given twice in {path}. Keep one.")
            parts = cast(list[object], value) if isinstance(value, list) else [value]
            given[key] = [entry_text(part) for part in parts]

    walk(cast(dict[object, object], content), "")
    return given, found


def build(kind: type[Config], values: dict[str, object], default: Config | None = None) -> Config:
    """Build the dataclass from values by dotted key. Absent or MISSING ones are as in `default` or the class."""
    hints = get_type_hints(kind)
    arguments: dict[str, object] = {}
    for item in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            prefix = f"{item.name}."
            inner = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            made = None if item.default_factory is dataclasses.MISSING else item.default_factory()
            arguments[item.name] = build(cast(type[object], hint), inner, made)
        elif values.get(item.name, dataclasses.MISSING) is not dataclasses.MISSING:
            arguments[item.name] = values[item.name]
        elif default is not None:
            arguments[item.name] = vars(default)[item.name]
    return kind(**arguments)
