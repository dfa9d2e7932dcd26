"""Tell of what goes wrong in a run's first steps."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from finetune.files import write_atomically
from finetune.optim.first_steps import NUM_WATCHED, FirstSteps
from finetune.report.rows import read_json
from finetune.session import Run, Session


def first_steps(run: Run, optimizer: torch.optim.Optimizer) -> FirstSteps | None:
    """Watch a run that starts. One process is enough, since all have the same weights."""
    if run.first_step > 0 or not run.accelerator.is_main_process:
        return None
    return FirstSteps(optimizer, in_backward=run.config.optim.in_backward)


def alarm(session: Session, step: int, grad_norm: float) -> None:
    """Print, record and send what is wrong in the first steps."""
    run, watch = session.run, session.first_steps
    if watch is None or step > NUM_WATCHED:
        return
    lr = session.tuned.optimizer.param_groups[0]["lr"]
    found = watch.alarms(step, grad_norm, lr, is_last=step == min(NUM_WATCHED, run.steps))
    if found:
        run.warn(found)
        add_warnings(run.folder / "data_card.json", found)
        if session.records.tracker:
            for text in found:
                session.records.tracker.alert("First steps", text)


def add_warnings(card: Path, found: Sequence[str]) -> None:
    """Add warnings to the data card, from which the report shows them."""
    known = read_json(card)
    write_atomically(card, json.dumps(known | {"warnings": [*known.get("warnings", []), *found]}, indent=1))
