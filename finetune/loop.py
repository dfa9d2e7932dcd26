"""The one training loop of all recipes."""

import time

from finetune.processes.ranks import ranks
from finetune.run.finish import end_stopped
from finetune.run.observe import alarm, begin, observe, with_row
from finetune.run.progress import progress_line
from finetune.run.saving.save import save
from finetune.run.scoring.score import is_settled
from finetune.run.step import due, optimizer_step, remaining_batches, set_learning_rates
from finetune.session import Progress, Session


def loop(session: Session) -> Progress:
    """Train, and return the progress. Training ends before the last step where later checkpoints are in vain. Raises
    SystemExit(75) after a signal and its checkpoint."""
    run, progress = session.run, begin(session)
    passes, is_shown = session.passes_per_step, run.accelerator.is_main_process
    with progress_line(run.steps, progress.step, passes_per_step=passes, shown=is_shown) as bar:
        if progress.step > 0 and not observe(session, progress, bar):
            end_stopped(session, progress.step)
        if is_settled(session):
            return progress
        batches = remaining_batches(session, progress.step)
        clock = time.perf_counter()
        for batch in batches:
            waited = time.perf_counter() - clock
            set_learning_rates(session, progress.step)
            outcome = optimizer_step(session, progress.step, batch)
            seconds = time.perf_counter() - clock  # the wait for the batch is part of it
            flops = session.step_flops(batch)
            progress = progress.after_step(outcome.loss, run.global_batch_size, seconds, waited, flops)
            bar.advance(outcome.loss)
            alarm(session, progress.step, outcome.grad_norm)
            progress = with_row(session, progress, outcome.grad_norm)
            is_saved = outcome.is_stopping or due(progress.step, run.config.checkpoint.every, run.steps)
            if is_saved:
                save(session, progress)
            if outcome.is_stopping or not observe(session, progress, bar):
                if not is_saved:
                    save(session, progress)
                end_stopped(session, progress.step)
            if progress.row is not None:
                ranks().exchange()  # one wrote and printed it
            if is_settled(session):
                if not is_saved:
                    save(session, progress)
                break
            clock = time.perf_counter()
    return progress
