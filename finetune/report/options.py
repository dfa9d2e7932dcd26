"""Differences between the options of a run and its preset."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path

from finetune.config.facts import Resume, marked, options, values
from finetune.config.parse.command_line import flat_types, read_flags, read_yaml
from finetune.config.parse.convert import convert, entry_text, spelled
from finetune.config.parse.dump import as_plain
from finetune.config.parse.presets import PRESETS, carried
from finetune.config.parse.recipe_options import RECIPES, known_options
from finetune.config.train import TrainConfig

STARTED = re.compile(r"=== \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC (.+)")
MOST_CHARACTERS = 100_000
MOST_LINES = 200
"""Of a command whose prompts contain line ends."""
OF_PLACE = ("output.folder", "resume")
"""Options that differ between all runs."""

Texts = Mapping[str, list[str]]


@dataclass(frozen=True)
class Difference:
    """An option, with its texts before and now. The text before is empty where it was not given."""

    key: str
    before: str
    now: str


@dataclass(frozen=True)
class Differences:
    """Options that differ from those of a preset, or from the defaults."""

    against: str
    found: list[Difference]


def command_of(folder: Path) -> list[str]:
    """Return the command that started a run, from run.log. It is empty if it is not known."""
    try:
        with (folder / "run.log").open(encoding="utf-8", errors="replace") as file:
            lines = file.read(MOST_CHARACTERS).splitlines()
    except OSError:
        return []
    begun = STARTED.fullmatch(lines[0]) if lines else None
    text = begun[1] if begun else ""
    for line in ["", *lines[1:MOST_LINES]]:
        text += f"\n{line}" if line else ""
        try:
            return shlex.split(text)
        except ValueError:  # a prompt that goes over several lines
            continue
    return []


def recipe_of(command: list[str], saved: Texts) -> type[TrainConfig] | None:
    """Find the options' class by the command, or by the options themselves."""
    named = Path(command[0]).stem if command else ""
    if f"recipes.{named}" in RECIPES:
        return RECIPES[f"recipes.{named}"]
    return next((kind for kind in RECIPES.values() if set(saved) <= known_options(kind)), None)


def differences(folder: Path) -> Differences | None:
    """Compare config.yaml with the preset of the command, or with the defaults. It is None without a config."""
    saved = read_yaml(folder / "config.yaml")[0] if (folder / "config.yaml").is_file() else {}
    command = command_of(folder)
    kind = recipe_of(command, saved)
    if not saved or kind is None:
        return None
    given = (read_flags(command[1:], flat_types(kind))[0].get("config") or [""])[0]
    preset = carried(PRESETS).get(Path(given).stem) or Path(given)
    is_there = bool(given) and preset.is_file()
    before = defaults(kind) | (read_yaml(preset)[0] if is_there else {})
    against = f"the preset {preset.stem}" if is_there else "the defaults"
    if given and not is_there:
        against += f", because {given} is not there any more"
    return Differences(against, different(kind, before, saved))


def different(kind: type, before: Texts, now: Texts) -> list[Difference]:
    """List the options that differ. Those that a run finds out itself are not among them."""
    types, found = flat_types(kind), set(marked(kind, Resume.FOUND))
    listed = []
    for key in [key for key in now if key in types and key not in OF_PLACE]:
        one = before.get(key)
        if one == now[key] or (key in found and one in (None, ["None"])):
            continue
        if one is None or typed(types[key], one) != typed(types[key], now[key]):
            listed.append(Difference(key, "" if one is None else shown(one), shown(now[key])))
    return listed


def typed(hint: object, texts: list[str]) -> object:
    """Convert texts, so that 1e-4 is 0.0001. Texts that do not convert stay."""
    try:
        return convert(hint, [spelled(text, hint) for text in texts])
    except ValueError:
        return texts


def shown(texts: list[str]) -> str:
    """Show the texts of an option in one line."""
    return ", ".join("none" if text == "None" else text for text in texts) or "none"


def defaults(kind: type[TrainConfig]) -> dict[str, list[str]]:
    """List the defaults of a recipe's options as texts."""
    found = {option.key: option.default for option in options(kind) if option.default is not MISSING}
    for item in fields(kind):
        if item.default_factory is not MISSING and is_dataclass(made := item.default_factory()):
            found |= dict(values(made, f"{item.name}."))
    plain = {key: as_plain(value) for key, value in found.items()}
    return {
        key: [entry_text(part) for part in (value if isinstance(value, list) else [value])]
        for key, value in plain.items()
    }
