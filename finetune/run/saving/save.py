"""Save a run so that it continues bit for bit."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import Tensor

from finetune.config.parse.dump import dump
from finetune.files import refuse_lost_folder
from finetune.optim.ema import trained_state
from finetune.processes.ranks import ranks
from finetune.processes.saved_progress import note_saved
from finetune.run.checkpoint import Checkpoint, save_checkpoint
from finetune.run.saving.adapter_files import exported_state, write_adapter_files
from finetune.run_folder.checkpoints import CheckpointState
from finetune.session import Progress, Session


def save(session: Session, progress: Progress) -> None:
    """Write a checkpoint on the main process, for which the others wait."""
    run, options = session.run, session.run.config.checkpoint
    with session.stop.saving():
        state = exported_state(session) if options.export else None
        if session.records.metrics is not None:
            refuse_lost_folder(run.lock, run.folder)
            session.records.metrics.sync()
            checkpoint = checkpoint_of(session, progress)
            files = None if state is None else partial(write_files, session, state, progress.step)
            save_checkpoint(
                run.folder / "checkpoints", checkpoint, dump(run.config), keep=options.keep, write_export=files
            )
        ranks().exchange()  # a large checkpoint takes longer than the next step's collectives would wait
        note_saved(progress.step)


def write_files(session: Session, state: Mapping[str, Tensor], step: int, folder: Path) -> None:
    """Write a checkpoint's files for other programs; print how exact they are."""
    largest = write_adapter_files(session, state, step, folder)
    session.run.say(
        f"step_{step:06d}/export: read again, no layer's change differs by more than {largest:.1e} relative."
    )


def checkpoint_of(session: Session, progress: Progress) -> Checkpoint:
    """Return everything that the run continues from."""
    run, model, tuned = session.run, session.model, session.tuned
    scaler = run.accelerator.scaler
    state: CheckpointState = {
        "step": progress.step,
        "window": asdict(progress.window),
        "pending": progress.row,
        "metrics_bytes": progress.metrics_bytes,
        "base_loss": progress.base_loss,
        "elapsed_seconds": progress.seconds,
        "scaler": scaler.state_dict() if scaler else None,
        "dataset": run.manifest.digests(),
        "base_sha256": model.base_sha256,
        "model": model.identity,
        "precision": run.accelerator.mixed_precision,
        "global_batch_size": run.global_batch_size,
    }
    average = tuned.ema.settled() if tuned.ema else None
    return Checkpoint(trained_state(tuned.network), average, tuned.optimizer.state_dict(), state)
