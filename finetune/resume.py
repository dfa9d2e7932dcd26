"""What a run continues from, and whether it may."""

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from finetune.checkpoint import Checkpoint, complete_steps, load_checkpoint, newest_checkpoint
from finetune.config import TrainConfig
from finetune.data.manifest import Manifest
from finetune.ema import EMA, load_trained_state
from finetune.models.base import Network
from finetune.runfolder import changed_options, refuse_changed_data


def find_checkpoint(config: TrainConfig, manifest: Manifest, warnings: list[str]) -> tuple[Path, Checkpoint] | None:
    """Returns the verified checkpoint that config.resume asks for, None for a new run; adds what the user should know
    to `warnings`.

    Raises ValueError where the checkpoint is damaged, too far, of other pictures, or of another optimizer.
    """
    folder = config.output.folder / "checkpoints"
    if config.resume == "never":
        return None
    if config.resume == "auto":
        found = newest_checkpoint(folder, warnings.append)
        if found is None:
            return None
        path, checkpoint = found
    else:
        path = Path(config.resume)
        try:
            checkpoint = load_checkpoint(path)
        except ValueError as error:
            raise ValueError(
                f"resume: {error}. Expected auto, never, or the folder of an intact checkpoint."
            ) from error
        newer = [other for step, other in complete_steps(folder) if step > checkpoint.state["step"]]
        if newer:
            raise ValueError(
                f"resume: {path} is older than {newer[0]} in the same output.folder. Choose another output.folder to "
                "branch off."
            )
        if path.resolve().parent != folder.resolve():
            checkpoint.state["metrics_bytes"] = 0
    step = checkpoint.state["step"]
    if step > config.train.steps:
        raise ValueError(f"train.steps: got {config.train.steps}, but {path} is already at step {step}.")
    changed = changed_options(config, path / "config.yaml")
    refused = [text for text in changed if text.startswith(("optim.name ", "train.ema_decay ", "model.family "))]
    if refused:
        raise ValueError(
            f"resume: {path} was written with other options ({', '.join(refused)}). Use another output.folder."
        )
    if changed:
        warnings.append(f"resuming with {len(changed)} changed options: {', '.join(changed)}.")
    data_warning = refuse_changed_data(manifest, checkpoint.state["dataset"], config.data.allow_change)
    if data_warning:
        warnings.append(data_warning)
    return path, checkpoint


def restore(
    checkpoint: Checkpoint,
    network: Network,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    accelerator: Accelerator,
    groups: list[dict[str, Any]],
) -> None:
    """Puts a checkpoint's weights, averages, optimizer state and gradient scaler in place; `groups` carry the peak
    learning rates."""
    load_trained_state(network, checkpoint.trained)
    optimizer.load_state_dict(checkpoint.optimizer)
    for group, fresh in zip(optimizer.param_groups, groups, strict=True):
        group["peak_lr"] = fresh["peak_lr"]
    if ema and checkpoint.ema:
        for name, average in ema.average.items():
            average.copy_(checkpoint.ema[name])
    if accelerator.scaler and checkpoint.state["scaler"]:
        accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
