"""The trackers of a run, with facts beside its options."""

import platform
import subprocess
from pathlib import Path
from typing import cast

import torch

from finetune.config.parse.dump import as_plain
from finetune.data.class_images import trained
from finetune.files import writing
from finetune.report.machines import versions
from finetune.session import LoadedModel, Run, TrainingData, Tuned
from finetune.tracking.backend import Input
from finetune.tracking.tracker import Tracker, start_tracking

GIT_SECONDS = 5.0


def open_trackers(run: Run, model: LoadedModel, data: TrainingData, tuned: Tuned) -> Tracker:
    """Open the trackers of the options. A new run records what it is made from."""
    tracking = run.config.tracking
    facts = run_facts(run, model, data, tuned) if tracking.names else {}
    options = cast("dict[str, object]", as_plain(run.config)) | {"facts": facts}
    with writing(run.folder):
        tracker = start_tracking(tracking, run.folder, options, data_fingerprint=run.manifest.fingerprint)
    if tracking.names and run.resume is None:
        tracker.log_inputs(inputs(run, model, facts))
    return tracker


def run_facts(run: Run, model: LoadedModel, data: TrainingData, tuned: Tuned) -> dict[str, object]:
    """Collect what is known of a run before its first step."""
    counted = trained(run.manifest.records, data.held_out_indices)
    facts: dict[str, object] = {
        "num_processes": run.accelerator.num_processes,
        "precision": run.accelerator.mixed_precision,
        "device": device_name(run.accelerator.device),
        "global_batch_size": run.global_batch_size,
        "num_images": sum(counted.instance.values()),
        "num_class_images": sum(counted.of_class.values()),
        "num_validation_images": len(data.held_out_indices),
        "epochs": run.steps * run.global_batch_size / counted.num_samples,
        "parameters": tuned.counts,
        "base_sha256": model.base_sha256,
        "versions": dict(versions()),
    }
    commit = git_commit(Path.cwd())
    return facts if commit is None else facts | {"git_commit": commit}


def inputs(run: Run, model: LoadedModel, facts: dict[str, object]) -> list[Input]:
    """Name the dataset and the base model by their content."""
    source, location = run.config.model.source, run.manifest.title
    sizes = {key: facts[key] for key in ("num_images", "num_class_images", "num_validation_images")}
    fingerprint = run.manifest.fingerprint
    return [
        Input(f"{last_part(location)}-{fingerprint[:8]}", "dataset", {"fingerprint": fingerprint} | sizes),
        Input(
            f"{last_part(source)}-{model.base_sha256[:8]}",
            "base_model",
            {"family": run.family.title, "sha256": model.base_sha256},
        ),
    ]


def last_part(location: str) -> str:
    """Take the last part of a path or Hub id."""
    return Path(location).name or "unnamed"


def device_name(device: torch.device) -> str:
    """Name the GPU's model, or the CPU's kind."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}"


def git_commit(folder: Path) -> str | None:
    """Get the commit that is checked out in a folder. It is None outside a repository or without git."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
