"""The time of a run, from a stated or measured step; torch-free."""

import json
from datetime import timedelta

from finetune.config.train import TrainConfig


def seconds_per_step(config: TrainConfig, stated: float | None) -> tuple[float | None, str]:
    """Return the seconds of a step and where they are from. They are stated, or measured in the output folder."""
    if stated is not None:
        return stated, "as stated"
    file = config.output.folder / "metrics.jsonl"
    if not file.is_file():
        return None, ""
    for line in reversed(file.read_text(encoding="utf-8").splitlines()):
        try:
            row = json.loads(line)
            return float(row["elapsed_seconds"]) / int(row["step"]), f"measured in {file}"
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            continue  # a line of something else, or one that a kill cut
    return None, ""


def time_text(steps: int, seconds: float | None, source: str) -> str:
    """Return the time of all steps as a sentence."""
    if seconds is None:
        return "Time: unknown. Give the seconds of a step with --step-seconds; a started run's folder has them."
    total = timedelta(seconds=round(steps * seconds))
    return f"Time: {total} for {steps:,} steps of {seconds:.3g} s ({source}), without caches, previews and scores."
