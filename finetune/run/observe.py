"""Measure and show a step: alarms, validation, the row of metrics, previews."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune.files import refuse_lost_folder, write_atomically
from finetune.optim.first_steps import NUM_WATCHED
from finetune.processes.ranks import ranks
from finetune.report.rows import read_json
from finetune.run.finish import end_stopped
from finetune.run.preview import BASE_STEP, preview
from finetune.run.progress import ProgressLine
from finetune.run.scoring.score import score, scoring_is_due
from finetune.run.step import due
from finetune.run.validate import validate, validation_is_due
from finetune.run_folder.metrics import Window
from finetune.session import Progress, Session


def begin(session: Session) -> Progress:
    """Return the progress to start from. A new run measures and draws the base model first."""
    progress = session.start
    session.tuned.network.train()
    ranks().exchange()  # one opened the trackers
    if progress.step > 0:
        return progress
    if session.validates:
        if (base := validate(session)) is None:
            end_stopped(session, 0)
        progress = replace(progress, base_loss=base.loss)
    if session.run.config.preview.prompts and not preview(session, BASE_STEP):
        end_stopped(session, 0)
    return progress


def alarm(session: Session, step: int, grad_norm: float) -> None:
    """Print, record and send what is wrong in the first steps."""
    run, watch = session.run, session.first_steps
    last = min(run.first_step + NUM_WATCHED, run.steps)
    if watch is None or step > last:
        return
    lr = session.tuned.optimizer.param_groups[0]["lr"]
    found = watch.alarms(step - run.first_step, grad_norm, lr, is_last=step == last)
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


def with_row(session: Session, progress: Progress, grad_norm: float) -> Progress:
    """Add a due row, and the size of metrics.jsonl, to the progress. The size is that before the row."""
    run, metrics = session.run, session.records.metrics
    config, step = run.config, progress.step
    progress = replace(progress, metrics_bytes=metrics.num_bytes() if metrics else 0)
    if not due(step, config.train.log_every, run.steps) and not validation_is_due(session, step):
        return progress
    groups = session.tuned.optimizer.param_groups
    rates = {f"lr_{group['name']}": group["lr"] for group in groups[1:]} | {"lr": groups[0]["lr"]}
    row = {"step": step, **progress.window.means(), **rates, "grad_norm": grad_norm}
    if session.work is not None:
        row["mfu"] = progress.window.utilization(session.work.peak)
    row |= {"images_seen": step * run.global_batch_size, "elapsed_seconds": progress.seconds}
    return replace(progress, row=row, window=Window())


def observe(session: Session, progress: Progress, bar: ProgressLine) -> bool:
    """Validate, log, draw and score what is due. Returns False if a signal stopped it."""
    run, records, row, step = session.run, session.records, progress.row, progress.step
    refuse_lost_folder(run.lock, run.folder)
    if row is not None:
        if validation_is_due(session, step):
            if (result := validate(session)) is None:
                return False
            row = row | result.row() | {"validation/base_loss": progress.base_loss or math.nan}
        if records.metrics and records.tracker:
            records.metrics.write(row)
            records.tracker.log(row, step)
            bar.log(row)
    previews = run.config.preview
    if previews.prompts and due(step, previews.every, run.steps) and not preview(session, step):
        return False
    return not scoring_is_due(session, step) or score(session, progress)
