"""Filters of records, such as `step>=100` and `scores.style>0.5`. Their values are bound, never pasted into SQL."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.config.parse.convert import suggestion
from finetune.records.database import COLUMNS, SCORE_COLUMNS

Sign = Literal[">=", "<=", "!=", "=", ">", "<", "~"]
SIGNS: dict[str, str] = {">=": ">=", "<=": "<=", "!=": "IS NOT", "=": "IS", ">": ">", "<": "<"}
FORM = re.compile(r"\s*([\w.-]+?)\s*(>=|<=|!=|=|>|<|~)\s*(.*?)\s*", re.DOTALL)
SCORE = re.compile(r"scores\.(\w+)(?:\.(" + "|".join(SCORE_COLUMNS) + "))?")
SETTING = re.compile(r"settings\.(\w+)")
FIELDS = (*COLUMNS, "scores.NAME", "scores.NAME.image", "settings.NAME")


@dataclass(frozen=True)
class Condition:
    """A part of a WHERE clause. The values are bound to its question marks."""

    sql: str
    values: Sequence[str | float]


def read_filter(text: str) -> Condition:
    """Read one filter. Raises ValueError with the fields and signs that there are."""
    match = FORM.fullmatch(text)
    if match is None or not match[3]:
        raise ValueError(
            f"filter: got {text}, expected a field, one of {' '.join([*SIGNS, '~'])}, and a value. Write it as in "
            '"step>=100", "scores.style>0.5" or "prompt~apple".'
        )
    name, sign, value = match.groups()
    if (score := SCORE.fullmatch(name)) is not None:
        column = score[2] or "value"
        expression = f"(SELECT {column} FROM scores WHERE scores.path = images.path AND scores.name = ?)"
        return condition(expression, [score[1]], sign, number(text, value, sign))
    if (setting := SETTING.fullmatch(name)) is not None:
        expression = "json_extract(images.settings, ?)"
        is_number = re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value) is not None and sign != "~"
        return condition(expression, [f"$.{setting[1]}"], sign, number(text, value, sign) if is_number else value)
    if name not in COLUMNS:
        raise ValueError(
            f"filter: got {text}, but there is no field {name}.{suggestion(name, list(COLUMNS))} Use one of "
            f"{', '.join(FIELDS)}."
        )
    is_text = COLUMNS[name].startswith("TEXT")
    return condition(f"images.{name}", [], sign, value if is_text else number(text, value, sign))


def filtered_field(text: str) -> str:
    """Return the field of a filter that was read before."""
    match = FORM.fullmatch(text)
    return match[1] if match else ""


def condition(expression: str, values: list[str | float], sign: str, value: str | float) -> Condition:
    """Compare an expression with a value. The value is bound."""
    if sign == "~":
        return Condition(f"instr(folded({expression}), folded(?)) > 0", [*values, value])
    return Condition(f"{expression} {SIGNS[sign]} ?", [*values, value])


def number(text: str, value: str, sign: str) -> float:
    """Read the number of a filter."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if sign == "~" or not math.isfinite(found):
        raise ValueError(f"filter: got {text}, expected a number after one of {' '.join(SIGNS)} for this field.")
    return found


def search_words(text: str) -> str:
    """Write words as a query for full-text search: all must occur. One that ends with * is the beginning of a word."""
    words = [word.replace('"', " ").replace("\0", " ").strip() for word in text.split()]
    quoted = [f'"{word.rstrip("*")}"' + ("*" if word.endswith("*") else "") for word in words if word.strip("*")]
    if not quoted:
        raise ValueError("search: got no words, expected words of prompts. Omit it to show all images.")
    return " ".join(quoted)
