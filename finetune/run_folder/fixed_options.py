"""Options that a run keeps for its whole length; torch-free. They decide which tensors a checkpoint has and their
shapes, so they are compared before anything is loaded."""

import json
from pathlib import Path

from finetune.config.facts import Resume, marked
from finetune.config.train import TrainConfig
from finetune.files import size_and_sha256
from finetune.run_folder.checkpoints import complete_steps
from finetune.run_folder.options import changed_values


def refuse_changed_start(config: TrainConfig) -> None:
    """Raise ValueError where the checkpoint to continue has other fixed options. It is the newest of the run folder
    whose options are undamaged, else the one that `resume` names; the rest of it is checked when it is read."""
    newest_first = [path for _, path in complete_steps(config.output.folder / "checkpoints")]
    named = [] if config.resume in ("auto", "never") else [Path(config.resume)]
    for checkpoint in filter(has_intact_options, newest_first or named):
        refuse_changed_options(config, checkpoint)
        return


def has_intact_options(checkpoint: Path) -> bool:
    """Check a checkpoint's config.yaml against its own checksum."""
    try:
        listed = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
        return listed["config.yaml"] == size_and_sha256(checkpoint / "config.yaml")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def refuse_changed_options(config: TrainConfig, checkpoint: Path) -> None:
    """Raise ValueError with one line per fixed option that differs. They are compared with the checkpoint's."""
    lines, found = [], marked(type(config), Resume.FOUND)
    fixed = [*found, *marked(type(config), Resume.FIXED)]
    for key, before, now in changed_values(config, checkpoint / "config.yaml", fixed):
        if key in found and ["None"] in (before, now):
            continue  # found in the weights of the base model
        flag = f"--{key} {in_words(before)}".rstrip()
        got, expected = in_words(now) or "nothing", in_words(before) or "nothing"
        lines.append(f"{key}: got {got}, expected {expected} as in {checkpoint}. Use {flag}.")
    if lines:
        new = "another output.folder" if config.resume in ("auto", "never") else "a new output.folder without --resume"
        raise ValueError("\n".join([*lines, f"These options cannot change within a run. To start again, use {new}."]))


def in_words(texts: list[str]) -> str:
    """Write an option's value as on the command line."""
    return " ".join(text.lower() if text in ("None", "True", "False") else text for text in texts)
