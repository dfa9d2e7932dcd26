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
}
"""Words for commands, and the command that does it."""
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
}
"""Options of sd-scripts' tools for LoRA files."""


def usual_problem(words: Sequence[str]) -> str | None:
    """Return the answer to a command or option of other tools. None for others."""
    if words and words[0] in COMMANDS:
        return f"finetune {words[0]}: no such command. Use: {COMMANDS[words[0]]}"
    if words[:1] == ["lora"]:
        for word in words[2:]:
            name = word.partition("=")[0]
            if name in LORA_OPTIONS:
                return f"{name}: an option of sd-scripts' tools. Use {LORA_OPTIONS[name]}."
    return None
