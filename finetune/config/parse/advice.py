"""Advice on wrong options and values, for messages; torch-free."""

import math
import os
import re
import typing
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from finetune.config.parse.convert import choices, suggestion
from finetune.config.parse.other_trainers import counterpart, meant_value
from finetune.config.parse.usual_words import usual_answer

BRACKETS = " \"'“”‘’„«»[](){},;"
SIZES = re.compile(r"(\d+) ?[x*×,; :] ?(\d+)")
THOUSANDS = re.compile(r"\d{1,3}([.,]\d{3})+")
FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], float]], ...] = (
    (re.compile(r"([\d.]+)k"), lambda found: 1000 * float(found[1])),
    (re.compile(r"([\d.]+) ?(?:px|pixels|steps|epochs|images)"), lambda found: float(found[1])),
    (re.compile(r"([\d.]+) ?%"), lambda found: float(found[1]) / 100),
    (re.compile(r"10\^(-?\d{1,2})"), lambda found: 10.0 ** int(found[1])),
    (re.compile(r"(\d+)/([1-9]\d*)"), lambda found: int(found[1]) / int(found[2])),
    (re.compile(r"(\d*),(\d+)"), lambda found: float(f"{found[1]}.{found[2]}")),
    (re.compile(r"(.+)"), lambda found: float(found[1])),
)
"""Ways to write a number that are not read, and its value."""


def meant_option(key: str, known: Mapping[str, object], texts: Sequence[str] = ()) -> str:
    """Say what an unknown option may mean; empty if unknown."""
    if inside := [name for name in known if name.startswith(f"{key}.")]:
        return f" It is a section with options such as --{inside[0]}."
    inner = key.rpartition(".")[2]
    answer = counterpart(key, known, texts) or usual_answer(key, known)
    return answer or (counterpart(inner, known, texts) if inner != key else "") or suggestion(key, known)


def meant_text(key: str, texts: Sequence[str], hint: object) -> str:
    """Say how to write a value; empty if unknown."""
    got = " ".join(texts)
    if typing.get_origin(hint) is tuple:
        return meant_value(key, got) or _listed(key, texts, hint) or suggestion(got, choices(hint))
    if (sizes := SIZES.fullmatch(got.strip(BRACKETS))) and (answer := _side(key, int(sizes[1]), int(sizes[2]))):
        return answer
    if len(texts) > 1:
        return _several(key, texts)
    kinds = {hint, *typing.get_args(hint)}
    number = as_number(got, whole=int in kinds) if kinds & {int, float} else ""
    return meant_value(key, got) or (f" Write {number}." if number else suggestion(got, choices(hint)))


def as_number(text: str, *, whole: bool) -> str:
    """Rewrite a number as it is read here. Empty for other texts."""
    word = unicodedata.normalize("NFKC", text).strip(BRACKETS).replace("\N{MINUS SIGN}", "-").lower()
    if THOUSANDS.fullmatch(word) and (whole or word.count(",") > 1):
        word = re.sub("[.,]", "", word)
    for pattern, value_of in FORMS:
        if found := pattern.fullmatch(word):
            try:
                value = value_of(found)
            except ValueError:
                return ""
            if not math.isfinite(value) or (whole and not value.is_integer()):
                return ""
            return str(int(value)) if whole else f"{value:g}"
    return ""


def _side(key: str, width: int, height: int) -> str:
    """Say how to give two sides where an option has one."""
    name = key.rpartition(".")[2]
    if name not in ("resolution", "size"):
        return ""
    if width == height:
        return f" It is one side of a square. Write {width}."
    if name == "size":
        return f" It is one side of a square. Another shape belongs to the prompt: a cat --w {width} --h {height}."
    side = max(round(math.sqrt(width * height) / 64), 1) * 64
    return (
        f" It is one side of a square, whose area {width} x {height} has at {side}; images keep their shapes, up to "
        "data.max_aspect."
    )


def _listed(key: str, texts: Sequence[str], hint: object) -> str:
    """Say how several values of a closed set are given."""
    known = {choice.lower(): choice for choice in choices(hint)}
    parts = [part.strip(BRACKETS).lower() for text in texts for part in text.split(",")]
    if parts in (["none"], ["off"], ["no"], ["false"]):
        return f" For none of them write --{key} without a value."
    if len(parts) > len(texts) and set(parts) <= set(known):
        return f" Separate them by spaces: --{key} {' '.join(known[part] for part in parts)}."
    return ""


def _several(key: str, texts: Sequence[str]) -> str:
    """Advise where several values were passed instead of one."""
    from finetune.config.parse.presets import PRESETS, carried

    if all(os.path.exists(text) for text in texts):
        return " The shell made several paths of one with a *. Give their folder."
    first, second = texts[:2]
    if not first:
        return f" Write --{key}={second}, without a space behind the =."
    if re.fullmatch(r"[A-Z][A-Z0-9_]+=.*", second):
        return f" A variable is set before the command: {second} accelerate launch ..."
    if re.fullmatch(r"[a-z][\w.]*=.*", second):
        return f" Options begin with two hyphens. Write --{second}."
    if second.startswith("recipes."):
        return " The recipe is named before all options: accelerate launch -m RECIPE OPTIONS."
    if second.endswith((".yaml", ".yml")) or second in carried(PRESETS):
        return f" A preset or YAML file is an option: --config {second}."
    files = " Files are named before the options." if key == "output" else ""
    return f" Give one value; put quotes around one that has spaces.{files}"
