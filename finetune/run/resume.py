"""Find the checkpoint of a run, and check that it fits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from finetune.config.facts import Mark, marked
from finetune.config.parse.command_line import read_yaml
from finetune.config.parse.dump import read_options
from finetune.config.train import TrainConfig
from finetune.data.manifest import Manifest
from finetune.optim.build import learning_rate_factor
from finetune.optim.ema import EMA, load_trained_state
from finetune.optim.groups import ParamGroup
from finetune.optim.paged_state import load_state
from finetune.optim.sharded import part_like, state_in_parts
from finetune.plurals import plural
from finetune.run.checkpoint import load_checkpoint, newest_checkpoint, open_checkpoint
from finetune.run.fingerprint import OBJECTIVE, differences
from finetune.run_folder.checkpoints import CheckpointState, Identity, complete_steps
from finetune.run_folder.fixed_options import refuse_changed_options
from finetune.run_folder.options import changed_options, refuse_changed_data
from finetune.session import ResumePoint


def find_checkpoint(
    config: TrainConfig, manifest: Manifest, accelerator: Accelerator, warnings: list[str]
) -> ResumePoint | None:
    """Return config.resume's verified checkpoint, None for a new run. Adds to `warnings`. Raises ValueError where the
    checkpoint is damaged, too far, of other images, or of another optimizer."""
    folder = config.output.folder / "checkpoints"
    if config.resume == "never":
        return None
    own = complete_steps(folder)
    if config.resume == "auto" or (own and is_same_branch(config)):
        found = newest_checkpoint(folder, warnings.append)
        if found is None:
            return None
        path, state = found
    else:
        path = Path(config.resume)
        try:
            state = open_checkpoint(path)
        except ValueError as error:
            raise ValueError(
                f"resume: {error}. Expected auto, never, or the folder of an intact checkpoint."
            ) from error
        is_own = path.resolve().parent == folder.resolve()
        if own and (not is_own or own[0][0] > state["step"]):
            raise ValueError(
                f"resume: got {path}, but the run in {config.output.folder} is at {own[0][1].name}. Leave --resume "
                "away to continue that run, or choose another output.folder to branch off."
            )
        if not is_own:
            state["metrics_bytes"] = 0
    step = state["step"]
    if step > config.train.steps:
        raise ValueError(f"train.steps: got {config.train.steps}, but {path} is already at step {step}.")
    refuse_changed_options(config, path)
    changed = changed_options(config, path / "config.yaml")
    warnings += rising_rate(config, path / "config.yaml", step)
    changed += changed_launch(config, accelerator, state)
    if changed:
        warnings.append(f"resuming with {plural(len(changed), 'changed option')}: {', '.join(changed)}.")
    if data_warning := refuse_changed_data(manifest, state["dataset"], config.data.allow_change):
        warnings.append(data_warning)
    return ResumePoint(path, state)


def is_same_branch(config: TrainConfig) -> bool:
    """Tell if output.folder's run began at config.resume's checkpoint. It did if the same command runs again."""
    saved = config.output.folder / "config.yaml"
    return saved.is_file() and read_yaml(saved)[0].get("resume") == [config.resume]


def rising_rate(config: TrainConfig, saved: Path, step: int) -> list[str]:
    """Warn if more steps make the rate rise after `step`."""
    options = read_options(saved, type(config), ("train.steps", "optim.schedule"))
    schedule, now = config.optim.schedule, config.train.steps
    planned, before = options.get("optim.schedule", schedule), options.get("train.steps", now)
    if schedule == "constant" or not config.optim.warmup_steps < step <= before < now:
        return []
    old = learning_rate_factor(step - 1, replace(config.optim, schedule=planned), before)
    new = learning_rate_factor(step, config.optim, now)
    if new <= old:
        return []
    return [
        f"optim.schedule: {planned} was laid out for {before:,} steps and is now "
        f"{'' if planned == schedule else f'{schedule} '}for {now:,}, so the learning rate goes up again: step "
        f"{step:,} had {config.optim.lr * old:.3g}, the next one has {config.optim.lr * new:.3g}. "
        "Omit --train.steps to end as planned, or use --optim.schedule constant with a rate of your own."
    ]


def changed_launch(config: TrainConfig, accelerator: Accelerator, state: CheckpointState) -> list[str]:
    """Return changes of the accelerate config that alter the result. An example is "mixed_precision no -> bf16"."""
    batch = config.train.batch_size * config.train.accumulation * accelerator.num_processes
    changes = {
        "mixed_precision": (state["precision"], accelerator.mixed_precision),
        "global batch size": (state["global_batch_size"], batch),
    }
    return [f"{name} {before} -> {now}" for name, (before, now) in changes.items() if before != now]


def refuse_other_model(
    identity: Identity, base_sha256: str, path: Path, state: CheckpointState, config: TrainConfig
) -> list[str]:
    """Raise ValueError that names changed parts of the checkpoint's model. Returns a warning if it names none."""
    found: dict[str, list[str]] = {}
    if base_sha256 != state["base_sha256"]:
        found = {"denoiser": ["other content"]}
    if "model" in state:
        found = differences(state["model"], identity)
        if any(text.startswith("loss.") for text in changed_options(config, path / "config.yaml")):
            found.pop(OBJECTIVE, None)  # it follows from these options too, and they are named as changed
    if started := set(found) & set(marked(type(config), Mark.START)):
        option = min(started)
        raise ValueError(
            f"{option}: the file is not the one that {path} started from ({found[option][0]}). Restore it, or choose "
            "another output.folder."
        )
    if found:
        texts = [f"{part} ({', '.join(changes[:5])})" for part, changes in found.items()]
        raise ValueError(
            f"model.source: the model in {config.model.source} is not the one that {path} was trained with. Changed: "
            f"{'; '.join(texts)}. Restore what the model was, or choose another output.folder."
        )
    if "model" in state:
        return []
    return [
        f"{path} is of version 0.1, which recorded the denoiser's weights alone: those are the same, but VAE, text "
        "encoders, tokenizers and scheduler could not be compared. The next checkpoint records them all."
    ]


def copy_from_file(optimizer: torch.optim.Optimizer) -> None:
    """Copy an optimizer's state on the CPU out of the checkpoint's file. As loaded, it is mapped to the file, which may
    be gone later. State of weights on another device was copied there, or to paged memory."""
    copies: dict[int, torch.Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
                continue
            if parameter.device.type == "cpu" or value.numel() == 1:  # a count of steps stays on the CPU
                if id(value) not in copies:  # parameters may share a table
                    copies[id(value)] = value.clone()
                state[key] = copies[id(value)]


def restore(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    accelerator: Accelerator,
    groups: Sequence[ParamGroup],
) -> None:
    """Put weights, averages, optimizer state and gradient scaler in place. `groups` have the peak learning rates."""
    checkpoint = load_checkpoint(path)
    load_trained_state(network, checkpoint.trained)
    load_state(optimizer, state_in_parts(checkpoint.optimizer, optimizer))
    copy_from_file(optimizer)
    for group, fresh in zip(optimizer.param_groups, groups, strict=True):
        group["peak_lr"] = fresh.lr
    if ema and checkpoint.ema:
        for name, average in ema.average.items():
            average.copy_(part_like(checkpoint.ema[name], average))
    if accelerator.scaler and checkpoint.state["scaler"]:
        accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
