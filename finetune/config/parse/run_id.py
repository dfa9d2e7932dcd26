"""A run folder for each trial of a W&B sweep; torch-free."""

import os
import re
from collections.abc import Sequence

PLACEHOLDER = "{WANDB_RUN_ID}"
NAMED = re.compile(r"[\w.-]+")


def with_run_id(texts: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Replace {WANDB_RUN_ID} in paths. Also return problems. `wandb agent` sets the variable for each trial."""
    if not any(PLACEHOLDER in text for text in texts):
        return list(texts), []
    run_id = os.environ.get("WANDB_RUN_ID", "")
    if not NAMED.fullmatch(run_id) or run_id in (".", ".."):
        got = f"is {run_id!r}" if run_id else "is not set"
        return list(texts), [
            f"{option}: got {' '.join(texts)}, but the variable WANDB_RUN_ID {got}, expected the id of a W&B run. "
            "Start it with wandb agent, set the variable, or write a folder."
        ]
    return [text.replace(PLACEHOLDER, run_id) for text in texts], []
