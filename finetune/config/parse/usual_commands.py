"""Commands and options that users of other tools type, with ours; torch-free."""

from collections.abc import Mapping, Sequence

PREPARE = "python -m datasets_prep --source FOLDER --output PREPARED"
COMMANDS: Mapping[str, str] = {
    **{name: f"finetune lora {name}" for name in ("show", "resize", "merge", "effect", "convert", "extract")},
    **dict.fromkeys(("info", "inspect", "metadata"), "finetune lora show FILE"),
    **dict.fromkeys(("tag", "tagger", "prep", "prepare", "dataset", "dedup", "bucket"), PREPARE),
    **dict.fromkeys(("caption", "captions"), f"{PREPARE} --captions.captioner NAME"),
    "review": "python -m datasets_prep review PREPARED",
    **dict.fromkeys(("sample", "infer", "inference", "draw", "txt2img"), "finetune generate"),
    **dict.fromkeys(("score", "validate", "eval"), "finetune evaluate"),
    **dict.fromkeys(("list", "configs", "config", "init"), "finetune presets, and --config NAME of a recipe"),
    **dict.fromkeys(("resume", "continue"), "the command that started the run, again"),
    **dict.fromkeys(("gui", "webui", "ui"), "finetune --help; there is no window"),
    **dict.fromkeys(("download", "login"), "hf download, and hf auth login"),
    "help": "finetune --help",
}
"""Words for commands, and the command that does it."""
LORA_COMMANDS: Mapping[str, str] = {
    **dict.fromkeys(("info", "inspect", "list", "metadata", "check"), "finetune lora show FILE"),
    **dict.fromkeys(("svd", "rank", "prune", "shrink"), "finetune lora resize FILE --rank N --output NEW.safetensors"),
    **dict.fromkeys(("dtype", "cast", "fp16", "bf16"), "finetune lora convert FILE --to LAYOUT --dtype fp16 ..."),
    **dict.fromkeys(("add", "combine", "mix", "apply", "bake", "fuse"), "finetune lora merge BASE FILE:STRENGTH ..."),
    **dict.fromkeys(("diff", "subtract"), "finetune lora extract TUNED BASE --rank N ..."),
    "train": "python -m recipes.lora OPTIONS",
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
    if words and words[0] in COMMANDS:
        return f"finetune {words[0]}: no such command. Use: {COMMANDS[words[0]]}"
    if words[:1] == ["lora"]:
        if words[1:] and words[1] in LORA_COMMANDS:
            return f"finetune lora {words[1]}: no such command. Use: {LORA_COMMANDS[words[1]]}"
        for word in words[2:]:
            name = word.partition("=")[0]
            if name in LORA_OPTIONS:
                return f"{name}: no such option. Use {LORA_OPTIONS[name]}."
    return None
