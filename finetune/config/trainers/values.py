"""Values of other trainers' options as ours; torch-free."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PureWindowsPath
from typing import cast

from finetune.config.tracking import TRACKERS
from finetune.config.trainers.tables import ANY, SAME, Row, Settings, spelled_value

DEFERRED = ("passes", "every_passes", "warmup", "forward_passes")
"""Conversions that need the length of the run."""
HANDLED = "folder"
"""The conversion of options that are read as folders of images."""
SAMPLE_OPTIONS = {
    "width": "w",
    "height": "h",
    "seed": "d",
    "sample_steps": "s",
    "diffusion_steps": "s",
    "guidance_scale": "l",
    "cfg_scale": "l",
    "noise_scheduler": "ss",
    "neg": "n",
    "negative_prompt": "n",
}
"""Options of a sample, and ours in a prompt."""


class NoCounterpartError(ValueError):
    """A value that has no counterpart, and why."""


def convert_value(row: Row, value: object, before: Settings) -> dict[str, object]:
    """Return our options for a value of theirs. `before` has those of earlier rows. Raises NoCounterpartError."""
    if row.values is not None:
        return {**_chosen(row, value), **row.also}
    if row.to is None and row.conversion != "betas":
        raise NoCounterpartError(row.none)
    try:
        if row.conversion == "betas":
            return dict(zip(("optim.beta1", "optim.beta2"), map(float, _parts(value)), strict=False))
        if row.conversion in ("prefix", "suffix"):
            return {str(row.to): _around(row.conversion, str(value), str(before.get(str(row.to), "{caption}")))}
        found = CONVERSIONS[row.conversion](value) if row.conversion else value
    except (ValueError, TypeError, KeyError):
        raise NoCounterpartError(f"the value {value} is not understood.") from None
    return {str(row.to): found, **row.also}


def remark(row: Row, value: object) -> str:
    """Say what a conversion changes; empty where nothing."""
    if row.conversion == "resolutions" and len(set(_parts(value))) > 1:
        return "a run has one resolution; the largest is taken."
    if row.conversion == "square" and len(set(_parts(value))) > 1:
        return "the square of that area; --w and --h in a prompt set other sides."
    if row.conversion == "resolution" and len(set(_parts(value))) > 1:
        return "the square of that area; buckets have other sides."
    return ""


def _chosen(row: Row, value: object) -> dict[str, object]:
    """Look a value up among those of the row."""
    choices = cast(Settings, row.values)
    word = spelled_value(value)
    fitting = next((key for key in choices if key.endswith(ANY) and key != ANY and word.startswith(key[:-1])), ANY)
    chosen = choices.get(word, choices.get(fitting, KeyError))
    if chosen is KeyError:
        raise NoCounterpartError(row.none or f"there is no such choice of {row.to} here.")
    if isinstance(chosen, Mapping):
        return dict(cast(Settings, chosen))
    return {str(row.to): value if chosen == SAME else chosen}


def _parts(value: object) -> list[str]:
    """Return the parts of a list, or of a text with commas."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [str(part) for part in cast(Iterable[object], value)]
    return [part for part in re.split(r"[,x\s]+", str(value).strip("()[] ")) if part]


def _around(side: str, text: str, template: str) -> str:
    """Put text before or behind a template's caption. A space joins them."""
    text = text.strip().replace("{", "").replace("}", "")
    if not text:
        raise ValueError
    return f"{text} {template}" if side == "prefix" else f"{template} {text}"


def _flag(value: object) -> bool:
    return spelled_value(value) in ("true", "1", "yes", "on")


def _side(width: float, height: float) -> int:
    """Return the side of the square with the area. It is a multiple of 64 where the sides differ."""
    return int(width) if width == height else max(64, round(math.sqrt(width * height) / 64) * 64)


def _resolution(value: object) -> int:
    sides = [float(part) for part in _parts(value)]
    return _side(sides[0], sides[-1])


def _largest(value: object) -> int:
    return max(int(float(part)) for part in _parts(value))


def _area(value: object) -> int:
    """Read a side in pixels, or a small number as megapixels."""
    number = float(str(value))
    return int(number) if number > 16 else round(math.sqrt(number * 1e6) / 64) * 64


def _listed(value: object) -> list[str]:
    texts = [str(part) for part in cast(list[object], value)] if isinstance(value, list) else [str(value)]
    return [text for text in texts if text.strip()]


def _samples(value: object) -> list[str]:
    """Return the prompts of samples in our notation, with their options."""
    found: list[str] = []
    for sample in cast(list[Mapping[str, object]], value):
        if sample.get("prompt") and sample.get("enabled", True):
            given = {mark: sample[name] for name, mark in SAMPLE_OPTIONS.items() if sample.get(name) not in (None, "")}
            if sample.get("random_seed"):
                given.pop("d", None)
            found.append(str(sample["prompt"]) + "".join(f" --{mark} {each}" for mark, each in given.items()))
    return found


def _trackers(value: object) -> list[str]:
    names = list(TRACKERS) if spelled_value(value) == "all" else _parts(value)
    known = [name for name in names if name in TRACKERS]
    if not known and spelled_value(value) not in ("none", "[]"):
        raise ValueError
    return known if spelled_value(value) != "all" else ["tensorboard", "wandb"]


def _thousandths(value: object) -> int:
    return int(1000 * float(str(value)))


CONVERSIONS: Mapping[str, Callable[[object], object]] = {
    "flag": _flag,
    "not": lambda value: not _flag(value),
    "text": lambda value: "" if value in (None, False) else str(value),
    "first": lambda value: _parts(value)[0],
    "list": _listed,
    "commas": _parts,
    "resolution": _resolution,
    "resolutions": _largest,
    "area": _area,
    "square": _resolution,
    "samples": _samples,
    "trackers": _trackers,
    "stem": lambda value: PureWindowsPath(str(value)).stem,
    "before": lambda value: int(str(value)) - 1,
    "thousandths": _thousandths,
    "thousandths_before": lambda value: _thousandths(value) - 1,
    "plus_one": lambda value: float(str(value)) + 1,
    "buckets": lambda value: 1.0 if not value else max(2.0, *map(_aspect, re.split(r"[;\s]+", str(value).strip()))),
}


def _aspect(size: str) -> float:
    sides = [float(part) for part in _parts(size)]
    return max(sides) / min(sides)
