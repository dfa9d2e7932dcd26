"""Files and command lines of other trainers as plain values; torch-free."""

import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.config.trainers.command_lines import ASSIGNMENT, UNIX, command_line_in, with_variables
from finetune.json_text import parse_json

MOST_BYTES = 2_000_000
DATA_SUFFIXES = (".json", ".toml", ".yaml", ".yml")
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
Content = Mapping[str, object] | list[object]


def read_file(path: Path) -> Content:
    """Read a file of any known format. Raises ValueError where it has none."""
    if not path.is_file():
        raise ValueError(f"no file {path}. Give the config file of another trainer.")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes, expected a config file.")
    if path.suffix.lower() in WEIGHTS:
        raise ValueError(f"{path} has weights, expected a config file. finetune lora show prints what is in a LoRA.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}. Save it as UTF-8.") from None
    suffix = path.suffix.lower()
    for read in (parse_json, _toml, _environment):
        found = _attempt(read, text)
        if isinstance(found, (dict, list)) and found:
            return cast(Content, found)
    try:
        found = None if suffix in DATA_SUFFIXES else command_line_in(text, suffix)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    found = found or _attempt(_yaml, text)
    if isinstance(found, (dict, list)) and found:
        return cast(Content, found)
    raise ValueError(
        _why_not(path, text)
        or f"{path} is neither TOML, JSON, YAML, an environment file nor a shell file with a command of a trainer."
    )


def _why_not(path: Path, text: str) -> str | None:
    """Say what is wrong with a file whose name says its format."""
    kinds = {".json": ("JSON", parse_json), ".toml": ("TOML", tomllib.loads)}
    name, read = kinds.get(path.suffix.lower(), ("YAML", load_yaml))
    try:
        if path.suffix.lower() in DATA_SUFFIXES and text.strip():
            read(text)
    except (ValueError, StrictYamlError) as error:
        where = " ".join(str(error).split())
        where = where.removeprefix("is not valid YAML: ")
        return f"{path} is not valid {name}: {where}. Mend the line; its trainer cannot read it either."
    return None


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
            value = " ".join(shlex.split(match[2], comments=True))
            found[match[1]] = with_variables(value, UNIX, found)
        except ValueError:
            return None
    return found
