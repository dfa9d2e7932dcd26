"""The recipe of an option or preset, for messages; torch-free."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.parse.command_line import flat_types, parse_given, read_flags, read_yaml
from finetune.config.parse.dump import as_flat, with_options
from finetune.config.parse.help import print_first
from finetune.config.parse.other_trainers import counterparts
from finetune.config.parse.presets import OF_ACCELERATE, PRESETS, carried, find_preset, purpose
from finetune.config.pretrain import PretrainConfig
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig, TextualInversionTrainConfig
from finetune.config.train import TrainConfig
from finetune.plurals import first_few

Config = TypeVar("Config")

STEPS, EPOCHS, WARMUP = "train.steps", "train.epochs", "optim.warmup_steps"

RECIPES: dict[str, type[TrainConfig]] = {
    "recipes.lora": LoRATrainConfig,
    "recipes.full": FullTrainConfig,
    "recipes.dreambooth": DreamBoothTrainConfig,
    "recipes.textual_inversion": TextualInversionTrainConfig,
    "recipes.pretrain": PretrainConfig,
}


def parse_recipe(
    kind: type[Config], arguments: Sequence[str], program: str, say: Callable[[str], None]
) -> tuple[Config, frozenset[str]]:
    """Read a recipe's config, and list the given options. `say` receives warnings about a preset that fits but was made
    for another recipe, and about a warm-up that was shortened. `--help` prints the options that matter first."""
    if {"-h", "--help"} & set(arguments):
        print_first(kind, program)
    flags, _ = read_flags(arguments, flat_types(kind))
    steps = flags.get(STEPS, [""])[0] if len(flags.get(STEPS, [])) == 1 else ""
    warmup = shortened_warmup(kind, arguments, int(steps), say) if steps.isdecimal() else None
    config, given = parse_given(
        kind,
        arguments if warmup is None else [*arguments, f"--{WARMUP}", str(warmup)],
        program=program,
        find_file=preset_of(kind, program, say),
        elsewhere=lambda key: other_recipes_option(key, program),
    )
    return one_length(config, given, flags, say)


def one_length(
    config: Config, given: frozenset[str], flags: Collection[str], say: Callable[[str], None]
) -> tuple[Config, frozenset[str]]:
    """Let a flag of the run's length replace the file's."""
    used = as_flat(config)
    if used[EPOCHS] is None or not {STEPS, EPOCHS} <= given or (STEPS in flags) == (EPOCHS in flags):
        return config, given
    if EPOCHS in flags:
        say(f"{EPOCHS}: {used[EPOCHS]:g} of the command replaces {STEPS} {used[STEPS]} of the file.")
        return config, given - {STEPS}
    say(f"{STEPS}: {used[STEPS]} of the command replaces {EPOCHS} {used[EPOCHS]:g} of the file.")
    return with_options(config, {EPOCHS: None}), given - {EPOCHS}


def shortened_warmup(kind: type, arguments: Sequence[str], steps: int, say: Callable[[str], None]) -> int | None:
    """Shorten a preset's warm-up to fit fewer steps. It keeps its share of the run, and `say` receives a note. None for
    a warm-up that fits, or that the user gives, here or in a file."""
    flags, _ = read_flags(arguments, flat_types(kind))
    if WARMUP in flags or len(flags.get("config", [])) != 1:
        return None
    with contextlib.suppress(ValueError):  # other numbers and presets are refused where they are read
        path = find_preset(flags["config"][0])
        preset, _ = read_yaml(path)
        if path.resolve().parent != PRESETS.resolve() or not {STEPS, WARMUP} <= set(preset):
            return None
        warmup = int(preset[WARMUP][0])
        if 0 < steps <= warmup:
            fitting = warmup * steps // int(preset[STEPS][0])
            say(
                f"{WARMUP}: {path.stem} has {warmup}, for which {steps} steps are too few; {fitting} is used, the same "
                f"share of the run. Use --{WARMUP} to set another number."
            )
            return fitting
    return None


def recipes_with(keys: Iterable[str]) -> list[str]:
    """List the recipes that have all of these options or sections."""
    wanted = set(keys)
    return [recipe for recipe, kind in RECIPES.items() if wanted <= known_options(kind)]


def known_options(kind: type) -> set[str]:
    """Return the names of all options and sections."""
    options = flat_types(kind)
    return {*options, *(key.rpartition(".")[0] for key in options)}


def other_recipes_option(key: str, program: str) -> str:
    """Say which recipes have an option that `program` lacks. Empty if none has. The option may have the name that
    another trainer gives it."""
    ours = counterparts().get(key, key)
    found = recipes_with([ours])
    if not found or program in found:
        return ""
    if ours != key:
        return f" It is called {ours} in {' and '.join(found)}, and {program} does not have it."
    return f" {program} does not have it, {' and '.join(found)} {'does' if len(found) == 1 else 'do'}."


def preset_of(kind: type, program: str, say: Callable[[str], None]) -> Callable[[str], Path]:
    """Make the finder of `--config` files. It raises ValueError for a file with options of another recipe, and warns by
    `say` of a preset that fits but was made for another recipe."""

    def find(given: str) -> Path:
        path = find_preset(given)
        refuse_foreign(path)
        unknown = sorted(set(read_yaml(path)[0]) - known_options(kind))
        if "compute_environment" in unknown:
            raise ValueError(f"config: {path} is {OF_ACCELERATE}")
        others = recipes_with(unknown)
        own = [name for name, file in carried(PRESETS).items() if made_for(file) == program]
        fitting = f"for {program} use a preset of its own ({', '.join(own)})" if own else f"{program} has no preset"
        recipe = made_for(path)
        if unknown and others:
            recipe = recipe or others[0]
            raise ValueError(
                f"config: {path.name} is for {recipe}, not for {program}: it has {first_few(unknown)}. Run it with -m "
                f"{recipe}; {fitting}."
            )
        if not unknown and recipe not in (None, program):
            say(f"warning: config: {path.stem} is a preset of {recipe}, with numbers for that; {fitting}.")
        return path

    return find


def refuse_foreign(path: Path) -> None:
    """Refuse a config of another trainer. The ValueError names the command that translates it."""
    from finetune.config.trainers.recognise import foreign_config

    texts, problems = read_yaml(path)
    num_ours = max(len(set(texts) & known_options(kind)) for kind in RECIPES.values())
    ours = 2 * num_ours > len(texts)
    trainer = None if ours and not problems else foreign_config(path)
    if trainer is not None:
        raise ValueError(
            f"config: {path} is a config of {trainer}. Use: finetune import {path} --output NEW.yaml, which writes one "
            "for a recipe here and says what differs."
        )


def preset_lines() -> list[str]:
    """List the presets by recipe, each with what it is for."""
    lines: list[str] = []
    found: dict[str, tuple[Path, str]] = {}
    for name, path in carried(PRESETS).items():
        found[name] = path, made_for(path) or recipes_with(read_yaml(path)[0])[0]
    width = max(map(len, found))
    for recipe in RECIPES:
        named = [f"  {name:<{width}}  {purpose(path)}" for name, (path, made) in found.items() if made == recipe]
        lines += ["", f"{recipe}:", *named] if named else []
    return [
        *lines[1:],
        "",
        "Use: python -m RECIPE --config NAME --model.source MODEL --data.folder IMAGES --output.folder OUT.",
        f"Options win over it; the reasons of its numbers are in {PRESETS}.",
    ]


def made_for(path: Path) -> str | None:
    """Return the recipe of a preset, by its file name. It is the first recipe in the name; None for other files."""
    if path.resolve().parent != PRESETS.resolve():
        return None
    places = {recipe: path.stem.find(recipe.rpartition(".")[2]) for recipe in RECIPES}
    named = {recipe: place for recipe, place in places.items() if place >= 0}
    return min(named, key=lambda recipe: named[recipe]) if named else None
