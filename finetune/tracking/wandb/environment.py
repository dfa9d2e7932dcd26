"""W&B's environment variables beside the options of `tracking`. Unused ones are reported with the reason."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from finetune.config.tracking import TrackingConfig
from finetune.tracking.backend import TrackedRun

RUN_ID = re.compile(r"(?!\s)[^:;,#?/\\'\n]{1,128}(?<!\s)")
"""Run ids that W&B accepts (wandb 0.31, `Settings.validate_run_id`) and a folder can have."""

NOT_IN_PROJECTS = "/\\#?%:"
"""Characters that W&B refuses in project names (wandb 0.31, `Settings.validate_project`)."""
LONGEST_PROJECT, LONGEST_TAG = 128, 64


def identified(run: TrackedRun, config: TrackingConfig) -> TrackedRun:
    """Return the run as options or W&B's variables name it. Options come first. wandb reads the other variables
    itself where no option is given (WANDB_ENTITY, WANDB_NOTES, WANDB_RUN_GROUP, WANDB_JOB_TYPE, ...)."""
    environment = os.environ
    return replace(
        run,
        project=config.project or environment.get("WANDB_PROJECT") or run.project,
        name=config.run_name or environment.get("WANDB_NAME") or run.name,
        tags=config.tags or tags_of(environment),
        entity=config.entity,
        group=config.group,
        job_type=config.job_type,
        notes=config.notes,
    )


def tags_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tags in WANDB_TAGS, without empty ones, which wandb refuses."""
    return tuple(tag.strip() for tag in environment.get("WANDB_TAGS", "").split(",") if tag.strip())


def refuse_invalid(config: TrackingConfig) -> None:
    """Raise ValueError for names (project, tags, id) that W&B would refuse."""
    option = "tracking.project" if config.project else "WANDB_PROJECT"
    project = config.project or os.environ.get("WANDB_PROJECT") or ""
    found = []
    if len(project) > LONGEST_PROJECT or any(letter in NOT_IN_PROJECTS for letter in project):
        found.append(
            f"{option}: got {project}, expected at most {LONGEST_PROJECT} characters without "
            f"{' '.join(NOT_IN_PROJECTS)}. Use another name; the team or user of a project is set by WANDB_ENTITY."
        )
    for option, tags in (("tracking.tags", config.tags), ("WANDB_TAGS", tags_of(os.environ))):
        found += [
            f"{option}: got {tag or 'an empty tag'}, expected 1 to {LONGEST_TAG} characters. Shorten or omit it."
            for tag in tags
            if not 1 <= len(tag) <= LONGEST_TAG
        ]
    if found:
        raise ValueError("\n".join(found))
    wanted_run_id()


def wanted_run_id() -> str | None:
    """Return WANDB_RUN_ID, None where it is not set. Raises ValueError where W&B would refuse it."""
    wanted = os.environ.get("WANDB_RUN_ID") or None
    if wanted is not None and not RUN_ID.fullmatch(wanted):
        raise ValueError(
            f"WANDB_RUN_ID: got {wanted!r}, expected at most 128 characters without spaces at its ends and without "
            ": ; , # ? / \\ '. Set another id or unset the variable."
        )
    return wanted


def switched_off_by(config: TrackingConfig) -> str | None:
    """Return the variable that switches W&B off, None where it is on. WANDB_MODE is W&B's own; transformers and tools
    built on it read WANDB_DISABLED."""
    if config.mode != "auto":
        return None
    if os.environ.get("WANDB_MODE") == "disabled":
        return "WANDB_MODE"
    return "WANDB_DISABLED" if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on") else None


def unused_variables(config: TrackingConfig, folder: Path) -> list[str]:
    """Return one sentence per unused variable of W&B, with its replacement."""
    options = {
        "WANDB_PROJECT": ("tracking.project", config.project),
        "WANDB_NAME": ("tracking.run_name", config.run_name),
        "WANDB_TAGS": ("tracking.tags", ",".join(config.tags) or None),
        "WANDB_ENTITY": ("tracking.entity", config.entity),
        "WANDB_RUN_GROUP": ("tracking.group", config.group),
        "WANDB_JOB_TYPE": ("tracking.job_type", config.job_type),
        "WANDB_NOTES": ("tracking.notes", config.notes),
    }
    texts = [
        f"{name}: got {os.environ[name]}, but {option} {value} is used. Omit the option to use the variable."
        for name, (option, value) in options.items()
        if value is not None and os.environ.get(name) not in (None, "", value)
    ]
    mode = os.environ.get("WANDB_MODE")
    if config.mode != "auto" and mode not in (None, "", config.mode):
        texts.append(f"WANDB_MODE: got {mode}, but tracking.mode {config.mode} is used. Omit the option to use it.")
    if os.environ.get("WANDB_DIR"):
        texts.append(f"WANDB_DIR: got {os.environ['WANDB_DIR']}, but the record of this run is in {folder / 'wandb'}.")
    if os.environ.get("WANDB_RESUME"):
        texts.append("WANDB_RESUME is not used: the same command resumes the W&B run of its output folder.")
    return texts
