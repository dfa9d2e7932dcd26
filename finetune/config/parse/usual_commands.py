"""Commands and options that users of other tools type, with ours; torch-free."""

import re
from collections.abc import Mapping, Sequence

ACTIONS = ("show", "resize", "merge", "effect", "convert", "extract")
PREPARE = "python -m datasets_prep --source FOLDER --output PREPARED"
COMMANDS: Mapping[str, str] = {
    **{name: f"finetune lora {name}" for name in ACTIONS},
    **dict.fromkeys(("info", "inspect", "metadata"), "finetune lora show FILE"),
    **dict.fromkeys(("tag", "tagger", "prep", "prepare", "dataset", "dedup", "bucket"), PREPARE),
    **dict.fromkeys(("caption", "captions"), f"{PREPARE} --captions.captioner NAME"),
    "review": "python -m datasets_prep review PREPARED",
    **dict.fromkeys(("sample", "infer", "inference", "draw", "txt2img"), "finetune generate"),
    **dict.fromkeys(("score", "validate", "eval"), "finetune evaluate"),
    **dict.fromkeys(("list", "configs", "config", "init"), "finetune presets, and --config NAME of a recipe"),
    **dict.fromkeys(("resume", "continue"), "the command that started the run, again"),
    **dict.fromkeys(("gui", "webui", "ui"), "finetune --help; it has no window"),
    **dict.fromkeys(("download", "login"), "hf download, and hf auth login"),
    "help": "finetune --help",
    **dict.fromkeys(("preprocess", "crop", "resize_images"), PREPARE),
    **dict.fromkeys(("upload", "push"), "hf upload REPOSITORY OUT/export"),
    **dict.fromkeys(("log", "logs", "status"), "run.log in the run folder, or finetune compare RUN RUN"),
    **dict.fromkeys(("stop", "kill"), "Ctrl-C in the window of the run, which saves a checkpoint"),
    "quantize": "finetune export MODEL --dtype fp8 --output NEW.safetensors",
}
"""Words for commands, and the command that does it."""
PROGRAMS = ("python", "python3", "accelerate", "torchrun", "tensorboard", "wandb", "hf", "pip")
"""Commands of their own."""
COMMAND_NAMES = {
    *("demo", "evaluate", "doctor", "presets", "accelerate-config", "plan", "compare", "records", "rate"),
    *("wandb-view", "lora", "import", "generate", "export"),
}
CONFIGS = (".toml", ".json", ".yaml", ".yml", ".sh", ".bat", ".ps1")
LORA_COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("info", "inspect", "list", "metadata", "check"), "finetune lora show FILE"),
    **dict.fromkeys(("svd", "rank", "prune", "shrink"), "finetune lora resize FILE --rank N --output NEW.safetensors"),
    **dict.fromkeys(("dtype", "cast", "fp16", "bf16"), "finetune lora convert FILE --to LAYOUT --dtype fp16 ..."),
    **dict.fromkeys(("add", "combine", "mix", "apply", "bake", "fuse"), "finetune lora merge BASE FILE:STRENGTH ..."),
    **dict.fromkeys(("diff", "subtract"), "finetune lora extract TUNED BASE --rank N ..."),
    "train": "python -m recipes.lora OPTIONS",
    "help": "finetune lora --help",
}
"""Words behind `finetune lora`, and the command that does it."""
LORA_OPTIONS: Mapping[str, str] = {
    "--new_rank": "--rank N",
    "--sv_ratio": "--energy SHARE",
    "--sv_fro": "--energy SHARE",
    "--dynamic_method": "--energy SHARE",
    "--dynamic_param": "--energy SHARE",
    "--save_to": "--output FILE",
    "--save_precision": "--dtype",
    "--model": "the file without an option",
    "--models": "the files without an option",
    "--ratios": "FILE:STRENGTH",
    "--ratio": "FILE:STRENGTH",
    "--lora": "the files without an option",
    "--from": "the file alone, whose layout is recognised",
    "--base": "the base model without an option",
    "--sd_model": "the base model before the files",
    "--model_org": "finetune lora extract TUNED BASE",
    "--model_tuned": "finetune lora extract TUNED BASE",
    **dict.fromkeys(("--dim", "--network_dim", "-r"), "--rank N"),
    **dict.fromkeys(("--out", "--save", "--save_as", "-o"), "--output FILE"),
    **dict.fromkeys(("--weight", "--weights", "--strength", "--multiplier", "--alpha", "--scale"), "FILE:STRENGTH"),
    **dict.fromkeys(("--format", "--layout"), "--to LAYOUT"),
}
"""Options of sd-scripts' tools for LoRA files, and usual ones."""


def usual_problem(words: Sequence[str]) -> str | None:
    """Return the answer to a command or option of other tools. None for others."""
    if not words:
        return None
    if (use := misplaced(words)) is not None:
        return f"finetune {words[0]}: {use}"
    if words[0] in COMMANDS:
        return f"finetune {words[0]}: no such command. Use: {COMMANDS[words[0]]}"
    if words[0] == "lora" and len(words) > 1:
        action = words[1]
        if action in LORA_COMMANDS:
            return f"finetune lora {action}: no such command. Use: {LORA_COMMANDS[action]}"
        if action.lower() in ACTIONS and action not in ACTIONS:
            return f"finetune lora {action}: commands are in lower case. Use: finetune lora {action.lower()}"
        if action.endswith(".safetensors"):
            return f"finetune lora {action}: expected a command. Use: finetune lora show {action}"
        for word in words[2:]:
            name = word.partition("=")[0]
            if name in LORA_OPTIONS:
                return f"{name}: no such option. Use {LORA_OPTIONS[name]}."
    return None


def misplaced(words: Sequence[str]) -> str | None:
    """Say what to type for words that start no command. None for unknown ones."""
    first = words[0]
    if first in PROGRAMS:
        return f"{first} is a program of its own. Omit finetune: {' '.join(words)}"
    if first.startswith("--") and first not in ("--help", "--version"):
        return "expected a command before options. To train: python -m RECIPE OPTIONS; for others: finetune --help"
    if first.endswith(".safetensors"):
        return f"expected a command. Use: finetune lora show {first}"
    if first.endswith(CONFIGS):
        return f"expected a command. Use: python -m RECIPE --config {first}; of others: finetune import {first}"
    parts = re.split("[-_.]", first.lower())
    if len(parts) == 2 and "lora" in parts and (found := [part for part in parts if part in ACTIONS]):
        return f"no such command. Use: finetune lora {found[0]}"
    lower = first.lower().replace("_", "-")
    if first != lower and lower in COMMAND_NAMES:
        return f"no such command. Use: finetune {lower}"
    return None
