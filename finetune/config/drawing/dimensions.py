"""Prompts from dimensions, such as subject, medium and lighting; torch-free."""

import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import cast

from finetune.config.drawing.options import FIELDS, PromptOptions, options_of_mapping, whole_number
from finetune.config.parse.convert import suggestion

MOST_PROMPTS = 1000
"""Prompts that all combinations may give where no `num` is given."""
OWN = ("dimensions", "template", "num", "draw_seed")
PLACE = re.compile(r"\{(\w+)\}")


def prompts_of_dimensions(given: Mapping[object, object]) -> tuple[list[PromptOptions], list[str]]:
    """Combine the values of all dimensions, or draw `num` of the combinations. Also return what is wrong. The last
    dimension changes fastest. Options beside them, such as width, are those of every prompt."""
    dimensions, found = read_dimensions(given["dimensions"])
    template = given.get("template", ", ".join(f"{{{name}}}" for name in dimensions))
    if not isinstance(template, str):
        return [], [*found, f"template: got {template}, expected text with names of dimensions such as {{subject}}."]
    found += template_problems(template, list(dimensions))
    for name in given:
        if name not in (*OWN, *FIELDS):
            found.append(f"{name}: no such option.{suggestion(str(name), [*OWN, *FIELDS])}")
    total = math.prod(map(len, dimensions.values()))
    numbers: Sequence[int] = range(total)
    try:
        if given.get("num") is not None:
            num = whole_number(given["num"], 1, total)
            numbers = random.Random(whole_number(given.get("draw_seed", 0), 0, 2**63 - 1)).sample(numbers, num)
    except (ValueError, TypeError):
        found.append(f"num, draw_seed: expected whole numbers, with num from 1 to the {total:,} combinations.")
    if len(numbers) > MOST_PROMPTS and given.get("num") is None:
        found.append(f"dimensions: {total:,} combinations, expected at most {MOST_PROMPTS:,}. Set num to draw some.")
    if found:
        return [], found
    shared = {name: value for name, value in given.items() if name in FIELDS}
    texts = [filled(template, combination(dimensions, index)) for index in numbers]
    prompts = [options_of_mapping({**shared, "prompt": text}) for text in texts]
    return [options for options, _ in prompts], list(dict.fromkeys(line for _, wrong in prompts for line in wrong))


def read_dimensions(value: object) -> tuple[dict[str, list[str]], list[str]]:
    """Read the values of each dimension. Also return what is wrong."""
    if not isinstance(value, dict) or not value:
        return {}, ["dimensions: expected a mapping such as `subject: [a cat, a dog]`."]
    found: list[str] = []
    dimensions: dict[str, list[str]] = {}
    for name, values in cast("dict[object, object]", value).items():
        items = cast("list[object]", values) if isinstance(values, list) else []
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            found.append(f"dimensions: got the name {name}, expected one word.")
        elif not items or not all(isinstance(item, str | int | float) for item in items):
            found.append(f"dimensions.{name}: expected a list of texts.")
        elif repeated := [item for item in items if items.count(item) > 1]:
            found.append(f"dimensions.{name}: has {repeated[0]} twice. Keep one.")
        else:
            dimensions[name] = list(map(str, items))
    return dimensions, found


def template_problems(template: str, names: Sequence[str]) -> list[str]:
    """List the dimensions that a template lacks, and its unknown names."""
    used = PLACE.findall(template)
    unknown, unused = [name for name in used if name not in names], [name for name in names if name not in used]
    found = [f"template: {{{name}}} names no dimension. Use {', '.join(names)}." for name in unknown]
    return found + [f"template: lacks {{{name}}}. Use it, or remove the dimension." for name in unused]


def filled(template: str, chosen: Mapping[str, str]) -> str:
    """Put values into a template."""
    return PLACE.sub(lambda place: chosen[place[1]], template)


def combination(dimensions: Mapping[str, Sequence[str]], index: int) -> dict[str, str]:
    """Return the values of one combination by dimension."""
    chosen: dict[str, str] = {}
    for name in reversed(list(dimensions)):
        index, place = divmod(index, len(dimensions[name]))
        chosen[name] = dimensions[name][place]
    return chosen
