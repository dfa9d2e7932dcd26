"""Save a run so that it continues bit for bit."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import Tensor

from finetune.config.parse.dump import dump
from finetune.files import refuse_lost_folder
from finetune.optim.ema import trained_state
from finetune.optim.sharded import own_share, own_share_of_state
from finetune.processes.ranks import ranks
from finetune.processes.saved_progress import note_saved
from finetune.run.checkpoint import Checkpoint
from finetune.run.saving.adapter_files import exported_state, write_adapter_files
from finetune.run.saving.write_checkpoint import save_checkpoint, save_in_parts
from finetune.run_folder.checkpoints import CheckpointState
from finetune.run_folder.mirror.uploads import request_upload, wait_for_room
from finetune.session import Progress, Session


def save(session: Session, progress: Progress) -> None:
    """Write a checkpoint on the main process, for which the others wait. With sharded weights all write a part."""
    run, options = session.run, session.run.config.checkpoint
    folder, text = run.folder / "checkpoints", dump(run.config)
    if run.config.output.mirror is not None:
        wait_for_room(session.stop.requested)
        ranks().exchange()  # the wait may be longer than that of a collective
    with session.stop.saving():
        state = exported_state(session) if options.export else None
        if session.records.metrics is not None:
            refuse_lost_folder(run.lock, run.folder)
            session.records.metrics.sync()
        files = None if state is None else partial(write_files, session, state, progress.step)
        if run.sharding is not None:
            own = own_part(checkpoint_of(session, progress))
            save_in_parts(folder, own, text, keep=options.keep, write_export=files)
        elif run.accelerator.is_main_process:
            checkpoint = checkpoint_of(session, progress)
            save_checkpoint(folder, checkpoint, text, keep=options.keep, write_export=files)
        ranks().exchange()  # a large checkpoint takes longer than the next step's collectives would wait
        note_saved(progress.step)
    request_upload()


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


def own_part(checkpoint: Checkpoint) -> Checkpoint:
    """Gather each tensor on one of the processes; return this one's part. No process ever has them all."""
    rank, num, ema = ranks().rank, ranks().size, checkpoint.ema
    return Checkpoint(
        own_share(checkpoint.trained, rank, num),
        None if ema is None else own_share(ema, rank, num),
        own_share_of_state(checkpoint.optimizer, rank, num),
        checkpoint.state,
    )
