"""Words of other trainers on our command line, answered with ours; torch-free."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from finetune.config.trainers.tables import Row

LAUNCHED = "are Accelerate's: give --{} before -m, or set it in its config file."
ELSEWHERE = {
    "mixed_precision": "Precision is Accelerate's: give --mixed_precision before -m, or set it in its config file.",
    **{
        name: f"Precision is Accelerate's: give --mixed_precision {ours} before -m, or set it in its config file."
        for name, ours in {"fp16": "fp16", "bf16": "bf16", "fp32": "no", "half": "fp16", "precision": "bf16"}.items()
    },
    "num_processes": f"Processes {LAUNCHED.format('num_processes')}",
    "num_machines": f"Machines {LAUNCHED.format('num_machines')}",
    "gpu_ids": f"GPUs {LAUNCHED.format('gpu_ids')}",
    **{
        name: f"It belongs to accelerate launch: give --{name} before -m."
        for name in ("num_cpu_threads_per_process", "main_process_port", "main_process_ip", "machine_rank")
    },
    "config_file": "It is an option of accelerate launch: give it before -m. A preset of a recipe is --config; that of "
    "sd-scripts becomes one by finetune import FILE --output NEW.yaml.",
    "dataset_config": "It names a file of sd-scripts. Use: finetune import {} --output NEW.yaml and --config NEW.yaml.",
    "network_module": "The recipe says what is trained: recipes.lora, and --lora.kind for relatives of LoRA.",
    "push_to_hub": "Nothing is uploaded to the Hub; upload OUT/export with: hf upload.",
}
"""Their names for what is not an option here, {} for the given value; the tables of config/trainers have more."""
VALUES_ELSEWHERE: Mapping[str, Mapping[str, str]] = {
    "to": {
        **dict.fromkeys(("a1111", "webui", "forge", "sd-scripts", "sdwebui"), "Use --to kohya."),
        "comfyui": "Use --to kohya, or --to original for the layer names of the model's first release.",
        **dict.fromkeys(("ai-toolkit", "aitoolkit", "bfl"), "Use --to original."),
    },
    "lora.kind": {
        "lycoris": "LyCORIS is a family of kinds. Use loha, lokr or oft, or --lora.conv true for LoCon.",
        "locon": "Use --lora.kind lora --lora.conv true.",
        "dora": "Use --lora.kind lora --lora.dora true.",
        "rslora": "Use --lora.kind lora --lora.rslora true.",
        "lora+": "Use --lora.kind lora --lora.plus_ratio 16.",
        "pissa": "Use --lora.kind lora --lora.init pissa.",
        "olora": "Use --lora.kind lora --lora.init olora.",
        "full": "Use recipes.full for all weights.",
    },
    "loss.weighting": {
        **dict.fromkeys(("min_snr", "min_snr_gamma", "snr"), "Use auto, with --loss.snr_gamma 5."),
    },
    "loss.snr_gamma": {**dict.fromkeys(("off", "none", "no", "false"), "Use --loss.weighting none.")},
    "preview.every": {
        **dict.fromkeys(("never", "off", "none", "no", "false"), "Omit preview.prompts for no previews."),
    },
    "optim.lr": {"auto": "Use --goal style or --goal subject, which propose a rate, or an optimizer that finds it."},
    "train.batch_size": {"auto": "finetune plan shows what fits into memory."},
    "lora.alpha": {"rank": "Use none."},
}
"""Values of other names, and what to use."""
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


def meant_value(key: str, text: str) -> str:
    """Return a sentence about another trainer's value of one of our options. Empty for other values."""
    from finetune.config.trainers.tables import all_tables, spelled_value

    word = spelled_value(text if text.replace(".", "").isdigit() else text.rpartition(".")[2])  # torch.optim.AdamW
    if (answer := VALUES_ELSEWHERE.get(key, {}).get(word)) is not None:
        return f" {answer}"
    places = (key, f"output.{key}")  # dtype of finetune export is that of output
    rows = (row for each in all_tables() for rows in each.options.values() for row in rows if row.to in places)
    for row in rows:
        if row.values is not None and word in row.values and (ours := _flags(row, text)):
            return f" Use {ours.replace(f'--output.{key}', f'--{key}')}."
    return ""


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
    return f" Write {_written(found)}." if found and found != {ours: "".join(texts)} else ""


def _flags(row: "Row", text: str) -> str:
    """Return our options for a value of theirs, as flags."""
    from finetune.config.trainers.values import NoCounterpartError, convert_value

    try:
        return _written(convert_value(row, text, {}))
    except NoCounterpartError:
        return ""


def _written(found: Mapping[str, object]) -> str:
    return " ".join(f"--{name} {_text(value)}" for name, value in found.items())


def _text(value: object) -> str:
    """Write a value as on the command line."""
    if isinstance(value, list):
        return " ".join(map(str, cast(list[object], value)))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _no_counterpart(key: str) -> str:
    from finetune.config.trainers.tables import all_tables

    for each in all_tables():
        if key in each.options and each.options[key][0].none:
            text = each.options[key][0].none
            if text.startswith("it was read"):
                return f" It names a file of {each.name}: import the config that names it, finetune import FILE."
            return f" Omit it: {text}"
    return ""
