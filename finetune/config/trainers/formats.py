"""Files and command lines of other trainers as plain values; torch-free."""

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.json_text import parse_json

MOST_BYTES = 2_000_000
ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
LAUNCHERS = ("accelerate", "launch", "python", "python3", "torchrun")
Content = Mapping[str, object] | list[object]


def read_file(path: Path) -> Content:
    """Read a file of any known format. Raises ValueError where it has none."""
    if not path.is_file():
        raise ValueError(f"no file {path}. Give the config file of another trainer.")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes, expected a config file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}. Save it as UTF-8.") from None
    for read in (parse_json, _toml, _environment, command_line_in, _yaml):
        found = _attempt(read, text)
        if isinstance(found, (dict, list)) and found:
            return cast(Content, found)
    raise ValueError(
        f"{path} is neither TOML, JSON, YAML, an environment file nor a shell file with a command of a trainer."
    )


def _attempt(read: object, text: str) -> object:
    try:
        return read(text) if callable(read) else None
    except (ValueError, StrictYamlError, tomllib.TOMLDecodeError):
        return None


def _toml(text: str) -> object:
    return tomllib.loads(text)


def _yaml(text: str) -> object:
    return load_yaml(text)


def _environment(text: str) -> object:
    """Read lines NAME=VALUE. Others must be empty or comments."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = ASSIGNMENT.fullmatch(line)
        if match is None:
            if line.strip() and not line.lstrip().startswith("#"):
                return None
            continue
        try:
            found[match[1]] = " ".join(shlex.split(match[2], comments=True))
        except ValueError:
            return None
    return found


def command_line_in(text: str) -> object:
    """Find the command of a script in a shell file. Variables that the file sets are replaced."""
    variables: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        if match := ASSIGNMENT.fullmatch(line):
            variables[match[1]] = " ".join(shlex.split(match[2], comments=True))
        elif any(word.endswith(".py") for word in words):
            known = [re.sub(r"\$\{?(\w+)\}?", lambda each: variables.get(each[1], each[0]), word) for word in words]
            return read_arguments(known)
    return None


def read_arguments(words: Sequence[str]) -> dict[str, object]:
    """Read the arguments of a script. Its name becomes the option `script`; what precedes it is the launcher's."""
    found: dict[str, object] = {}
    place = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
    if place is not None:
        launcher = read_arguments([word for word in words[:place] if word not in LAUNCHERS])
        found |= {key: value for key, value in launcher.items() if key in ("mixed_precision", "num_processes")}
        found["script"] = Path(words[place]).name
        words = words[place + 1 :]
    key = ""
    values: list[str] = []
    for word in [*words, "--"]:
        if not word.startswith("--") and not re.match(r"-[A-Za-z]", word):
            values.append(word)
            continue
        if key:
            found[key] = True if not values else values[0] if len(values) == 1 else values
        key, assigned, value = word.lstrip("-").partition("=")
        values = [value] if assigned else []
    return found
