"""Files of prompts: text in sd-scripts' notation, YAML or JSON; torch-free."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml

from finetune.config.drawing.dimensions import prompts_of_dimensions
from finetune.config.drawing.options import (
    PromptOptions,
    options_of_mapping,
    read_notation,
    write_notation,
)
from finetune.config.parse.strict_yaml import StrictYamlError, load_yaml
from finetune.json_text import parse_json
from finetune.prompt_syntax import is_path

FORMATS = (".txt", ".yaml", ".yml", ".json")
MOST_CHARACTERS = 4_000_000
MOST_VALUES = 200_000
Read = tuple[list[PromptOptions], list[str]]
"""Prompts, and what is wrong with their file."""


def names_file(text: str) -> bool:
    """Distinguish the path of a file of prompts from a prompt. Only a file that exists may have spaces in its name."""
    return is_path(text) or (text.strip().lower().endswith(FORMATS) and os.path.isfile(text.strip()))


def with_files_read(texts: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Replace each path by the prompts of its file, in the notation. Also return what is wrong with the files."""
    prompts: list[str] = []
    found: list[str] = []
    for given in texts:
        if not names_file(given):
            prompts.append(given)
            continue
        read, wrong = read_prompt_file(Path(os.path.expanduser(given.strip())))
        prompts += [write_notation(options) for options in read]
        found += [f"{option}: {line}" for line in wrong]
    return prompts, found


def read_prompt_file(path: Path) -> Read:
    """Read a file of prompts. Problems name the file and the line; images are searched beside the file first."""
    if not path.is_file():
        return [], [f"no file {path}. Give the path of a file of prompts, or a prompt."]
    if path.suffix.lower() not in FORMATS:
        return [], [f"got the file {path}, expected one of {', '.join(FORMATS)}. Save the prompts as one of these."]
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [f"{path} is not a text in UTF-8: {error}. Save it as UTF-8."]
    except OSError as error:
        return [], [f"{path} cannot be read: {error.strerror}."]
    if len(content) > MOST_CHARACTERS:
        return [], [f"{path} has {len(content):,} characters, expected at most {MOST_CHARACTERS:,}. Split it."]
    read = {".txt": of_lines, ".json": of_json}.get(path.suffix.lower(), of_yaml)
    prompts, found = read(content)
    if not prompts and not found:
        found = ["expected a prompt, but there is none."]
    return [beside(options, path.parent) for options in prompts], [f"{path}{line}" for line in map(behind, found)]


def behind(problem: str) -> str:
    """Join a problem to the name of its file."""
    return f", {problem}" if problem.startswith(("line ", "entry ")) else f": {problem}"


def beside(options: PromptOptions, folder: Path) -> PromptOptions:
    """Find the images of a prompt beside its file."""
    found: dict[str, Any] = {
        name: str(folder / value)
        for name in ("image", "mask_image")
        if (value := vars(options)[name]) is not None and (folder / value).is_file()
    }
    return replace(options, **found)


def of_lines(content: str) -> Read:
    """Read one prompt per line. Lines that begin with # are comments."""
    prompts: list[PromptOptions] = []
    found: list[str] = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        options, wrong = read_notation(line.strip())
        prompts.append(options)
        found += [f"line {number}: {problem}" for problem in wrong]
    return prompts, found


def of_yaml(content: str) -> Read:
    """Read a list of prompts, or dimensions, from YAML."""
    try:
        value = load_yaml(content, most_characters=MOST_CHARACTERS, most_values=MOST_VALUES)
    except StrictYamlError as error:
        return [], [f"{error}."]
    root = cast(Any, yaml).compose(content, Loader=yaml.SafeLoader)  # its stub leaves out the types
    lines = [node.start_mark.line + 1 for node in root.value] if isinstance(root, yaml.SequenceNode) else []
    return of_value(value, lines)


def of_json(content: str) -> Read:
    """Read a list of prompts, or dimensions, from JSON."""
    try:
        value = parse_json(content)
    except ValueError as error:
        return [], [f"is not valid JSON: {error}."]
    return of_value(value, json_lines(content) if isinstance(value, list) else [])


def json_lines(content: str) -> list[int]:
    """Return the line on which each entry of a valid list begins."""
    lines: list[int] = []
    place, decoder = content.index("[") + 1, json.JSONDecoder(object_pairs_hook=len)
    while content[place:].lstrip(" \t\r\n,")[:1] not in ("]", ""):
        place += len(content[place:]) - len(content[place:].lstrip(" \t\r\n,"))
        lines.append(content.count("\n", 0, place) + 1)
        _, place = decoder.raw_decode(content, place)
    return lines


def of_value(value: object, lines: Sequence[int]) -> Read:
    """Read a list of texts and mappings, or a mapping with dimensions. Entry i begins on line lines[i]."""
    if isinstance(value, dict) and "dimensions" in value:
        return prompts_of_dimensions(cast("Mapping[object, object]", value))
    if not isinstance(value, list):
        kind = "nothing" if value is None else type(cast("object", value)).__name__
        if isinstance(value, dict):
            inner = list(cast("Mapping[object, object]", value).values())
            is_workflow = any(isinstance(each, dict) and "class_type" in each for each in inner)
            is_library = inner and "prompt" not in value and all(isinstance(each, str) for each in inner)
            kind = "a workflow of ComfyUI" if is_workflow else "texts by name" if is_library else kind
        return [], [f"holds {kind}, expected a list of prompts, or `dimensions:` with a `template:`."]
    prompts: list[PromptOptions] = []
    found: list[str] = []
    for line, entry in zip(lines, cast("list[object]", value), strict=True):
        if isinstance(entry, str):
            options, wrong = read_notation(" ".join(entry.split()))
        elif isinstance(entry, dict):
            options, wrong = options_of_mapping(cast("Mapping[object, object]", entry))
        else:
            options, wrong = PromptOptions(""), [f"got {entry}, expected a prompt, or a mapping with one."]
        prompts.append(options)
        found += [f"line {line}: {problem}" for problem in wrong]
    return prompts, found
