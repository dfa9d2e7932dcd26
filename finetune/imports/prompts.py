"""The trigger in prompts of previews, which its trainer puts in; torch-free."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from finetune.config.trainers.tables import is_off
from finetune.imports.given import Given

PLACEHOLDER = re.compile(r"\[(?:trigger|name)\]")
PROMPTS = ("sample.prompts", "sample.samples")


def with_trigger_in_prompts(given: Given) -> tuple[Given, list[str], list[str]]:
    """Replace [trigger] and [name] by trigger_word. Also return lines on what was and what could not be replaced."""
    found = {key: given.options[key] for key in PROMPTS if PLACEHOLDER.search(str(given.options.get(key)))}
    if not found:
        return given, [], []
    trigger = given.options.get("trigger_word")
    if is_off(trigger):
        line = "has [trigger] or [name] without trigger_word, and nothing replaces them. Write the words there."
        return given, [], [f"{key}: preview.prompts {line}" for key in found]
    options = {**given.options, **{key: _replaced(value, str(trigger)) for key, value in found.items()}}
    lines: list[str] = []
    for key, value in found.items():
        words = sorted(set(PLACEHOLDER.findall(str(value))))
        lines.append(f"{key}: {' and '.join(words)} is {trigger}, as there")
    return replace(given, options=options), lines, []


def _replaced(value: object, trigger: str) -> object:
    """Replace placeholders in a text, a list or a sample."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda _: trigger, value)
    if isinstance(value, list):
        return [_replaced(each, trigger) for each in cast(list[object], value)]
    if isinstance(value, Mapping):
        return {key: _replaced(each, trigger) for key, each in cast(Mapping[str, object], value).items()}
    return value
