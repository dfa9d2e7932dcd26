"""The trainer whose config a file is; torch-free."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from finetune.config.trainers.easy_training import is_easy_training
from finetune.config.trainers.formats import Content, read_file
from finetune.config.trainers.kohya_gui import NAME, is_kohya_gui
from finetune.config.trainers.tables import Table, all_tables, table

FLAT = ("sd_scripts", "diffusers", "simple_tuner")
"""Trainers whose options have no sections, or none that mean anything."""
OTHERS = (
    (
        {"compute_environment", "distributed_type"},
        "a config of accelerate. Use: accelerate launch --config_file FILE",
    ),
    (
        {"cells", "nbformat"},
        "a notebook. Give its command: finetune import --output NEW.yaml -- SCRIPT.py OPTIONS",
    ),
    ({"ss_network_dim", "ss_network_module"}, "the metadata of a LoRA file. finetune lora show FILE prints them"),
    ({"peft_type", "base_model_name_or_path"}, "a config of peft. lora.start takes its folder"),
    (
        {"resume_ckpt", "data_root"},
        "a config of EveryDream2, which is not read. Write its options as ours: python -m recipes.full --help",
    ),
    ({"_class_name", "_diffusers_version"}, "a part of a model. model.source takes its folder"),
    ({"model", "data", "lora"}, "a config of this program. Use: python -m recipes.lora --config FILE"),
    ({"model", "data", "output"}, "a config of this program. Use: python -m recipes.full --config FILE"),
)
"""Files with options that are not another trainer's, by two names and more."""
PARTS = (
    ({"instance_data_dir", "dataset_type", "id"}, "a list of datasets of SimpleTuner. Import the config that names it"),
    ({"image", "text", "path"}, "a list of concepts of OneTrainer. Import the config that names it"),
)


def flat_options(content: Mapping[str, object]) -> dict[str, object]:
    """Return options without leading hyphens. Those of sections are joined, as sd-scripts does."""
    found: dict[str, object] = {}
    for key, value in content.items():
        name = str(key).lstrip("-")
        if isinstance(value, Mapping):
            found |= cast(Mapping[str, object], value)
        else:
            found[name] = value
    return found


def trainer_of(content: Content) -> str | None:
    """Return the stem of the trainer's table. None for other content, and where two fit as well."""
    if not isinstance(content, Mapping):
        return None
    inner = content.get("config")
    if isinstance(inner, Mapping) and isinstance(cast(Mapping[str, object], inner).get("process"), list):
        return "ai_toolkit"
    datasets = content.get("datasets")
    if isinstance(datasets, list) and any("subsets" in part for part in cast(list[Any], datasets) if part):
        return "sd_scripts"
    if is_kohya_gui(content) or is_easy_training(content):
        return "sd_scripts"
    if "training_method" in content and {"model_type", "base_model_name", "optimizer"} & set(content):
        return "one_trainer"
    script = str(content.get("script", ""))
    if script:
        named = [stem for stem in FLAT if re.fullmatch(table(stem).scripts, script)]
        if len(named) == 1:
            return named[0]
    return _flat_trainer(content)


def _flat_trainer(content: Mapping[str, object]) -> str | None:
    """Return the table that knows the most options. At least two, and half of all; another must know fewer."""
    keys = set(flat_options(content)) - {"script"}
    scores = sorted((_num_known(table(stem), keys), stem) for stem in FLAT)
    (second, _), (most, stem) = scores[-2:]
    return stem if most >= 2 and 2 * most >= len(keys) and most > second else None


def _num_known(candidate: Table, keys: set[str]) -> int:
    names = {candidate.environment.get(key, key.lower() if key.isupper() else key) for key in keys}
    return len(names & set(candidate.options))


def described(content: Content) -> str:
    """Describe a file of another kind, and name the known ones."""
    known = "; ".join(f"{each.name}: {each.files}" for each in all_tables())
    if isinstance(content, list):
        first = content[0] if content else None
        if isinstance(first, Mapping):
            names = set(map(str, cast(Mapping[object, object], first)))
            for marks, what in PARTS:
                if len(names & marks) > 1:
                    return f"it is {what}."
        return f"it holds a list of {len(content)}, expected the options of a run. Known are {known}."
    for marks, what in OTHERS:
        if marks <= set(content):
            return f"it is {what}."
    names = ", ".join(list(map(str, content))[:6])
    return f"its options ({names}) are not those of a known trainer. Known are {known}."


def foreign_config(path: Path) -> str | None:
    """Return the name of a config's trainer. None for other files."""
    try:
        content = read_file(path)
    except (ValueError, OSError):
        return None
    if isinstance(content, Mapping) and is_kohya_gui(content):
        return NAME
    stem = trainer_of(content)
    return None if stem is None else table(stem).name
