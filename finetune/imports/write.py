"""The YAML file of an imported config; torch-free."""

import re
from collections.abc import Sequence
from typing import get_args

import yaml

from finetune.config.parse.command_line import flat_types
from finetune.config.parse.recipe_options import RECIPES
from finetune.imports.given import Given
from finetune.imports.translate import Translation

NUMBER = re.compile(r"-?\d+(\.\d*)?([eE]-?\d+)?")


def yaml_text(found: Translation, given: Given, header: Sequence[str]) -> str:
    """Write our options by section, each with their option as a comment."""
    lines = [f"# {_printable(line)}".rstrip() for line in header]
    section = ""
    types_by_key = flat_types(RECIPES[given.recipe])
    ordered = [key for key in types_by_key if key in found.settings]
    sections = list(dict.fromkeys(key.rpartition(".")[0] for key in ordered))
    for key in sorted(ordered, key=lambda key: sections.index(key.rpartition(".")[0])):
        own, _, name = key.rpartition(".")
        if own != section:
            section = own
            lines += ["", f"{own}:"] if own else [""]
        listed = found.settings[key]
        if isinstance(listed, list) and listed and isinstance(listed[0], dict):
            indent = "  " if own else ""
            lines.append(f"{indent}{name}:  # {_printable(found.origins[key])}")
            lines += [f"{indent}- {flow_text(part)}" for part in listed]
            continue
        value = _scalar(found.settings[key], types_by_key[key])
        lines.append(f"{'  ' if own else ''}{name}: {value}  # {_printable(found.origins[key])}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _scalar(value: object, hint: object) -> str:
    """Write a value on one line. Numbers that their file has as texts lose the quotes."""
    if isinstance(value, str) and NUMBER.fullmatch(value) and {int, float} & {hint, *get_args(hint)}:
        return value
    return flow_text(value)


def flow_text(value: object) -> str:
    """Write a value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
