"""Words of other trainers on our command line, answered with ours; torch-free."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import cast

LAUNCHED = "are Accelerate's: give --{} before -m, or set it in its config file."
ELSEWHERE = {
    "mixed_precision": "Precision is Accelerate's: give --mixed_precision before -m, or set it in its config file.",
    "num_processes": f"Processes {LAUNCHED.format('num_processes')}",
    "num_machines": f"Machines {LAUNCHED.format('num_machines')}",
    "gpu_ids": f"GPUs {LAUNCHED.format('gpu_ids')}",
    "config_file": "It is an option of accelerate launch: give it before -m. A preset of a recipe is --config; that of "
    "sd-scripts becomes one by finetune import FILE --output NEW.yaml.",
    "dataset_config": "It names a file of sd-scripts. Use: finetune import {} --output NEW.yaml and --config NEW.yaml.",
    "network_module": "The recipe says what is trained: recipes.lora, and --lora.kind for relatives of LoRA.",
    "push_to_hub": "Nothing is uploaded to the Hub; upload OUT/export with: hf upload.",
}
"""Their names for what is not an option here, {} for the given value; the tables of config/trainers have more."""
OTHER_UNITS = {
    "every_passes": " It counts steps, not epochs: one epoch is the images with their repeats, divided by "
    "train.batch_size x train.accumulation x processes.",
    "warmup": " It counts steps; a share of the run, as 0.1, is a number of steps here.",
    "forward_passes": " It counts updates of the weights; train.accumulation does not divide it.",
}
"""What our number counts, by conversion, where theirs counts another thing."""


@cache
def counterparts() -> Mapping[str, str]:
    """Return our options by theirs, from the tables of all trainers. The first table that has a name counts."""
    from finetune.config.trainers.tables import ANY, all_tables

    found: dict[str, str] = {}
    for each in all_tables():
        for key, rows in each.options.items():
            if ANY not in key and rows[0].to not in (None, key):
                found.setdefault(key, str(rows[0].to))
    return found


def counterpart(key: str, known: Collection[str], texts: Sequence[str] = ()) -> str:
    """Return a sentence about an option of another trainer. It has the value as written here. Empty for other names,
    and where the recipe lacks it."""
    if key in ELSEWHERE:
        return f" {ELSEWHERE[key].format(texts[0] if texts else 'FILE')}"
    ours = counterparts().get(key)
    if ours is not None:
        return f" It is called {ours} here.{_as_ours(key, ours, texts)}" if ours in known else ""
    return "" if any(name.endswith(f".{key}") for name in known) else _no_counterpart(key)


def _as_ours(key: str, ours: str, texts: Sequence[str]) -> str:
    """Return our option with its value. Empty where theirs has the same form."""
    from finetune.config.trainers.tables import all_tables
    from finetune.config.trainers.values import DEFERRED, HANDLED, NoCounterpartError, convert_value

    row = next(row for each in all_tables() for row in each.rows(key)[:1] if row.to == ours)
    if len(texts) > 1 or row.conversion in (*DEFERRED, HANDLED):
        return OTHER_UNITS.get(row.conversion, "")
    if row.differs.startswith("it counts"):
        return f" {row.differs.capitalize()}"
    try:
        found = convert_value(row, texts[0] if texts else "true", {})
    except NoCounterpartError as error:
        return f" There {error}"
    given = {
        name: " ".join(map(str, cast(list[object], value))) if isinstance(value, list) else value
        for name, value in found.items()
    }
    words = " ".join(
        f"--{name} {str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()
    )
    return f" Write {words}." if given and given != {ours: "".join(texts)} else ""


def _no_counterpart(key: str) -> str:
    from finetune.config.trainers.tables import all_tables

    for each in all_tables():
        if key in each.options and each.options[key][0].none:
            text = each.options[key][0].none
            if text.startswith("it was read"):
                return f" It names a file of {each.name}: import the config that names it, finetune import FILE."
            return f" Omit it: {text}"
    return ""
