"""Files written before the first step, and the open records. Nothing is refused after this."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from finetune.config.parse.dump import dump
from finetune.data.folders import folder_counts
from finetune.evaluate.running.desk import Desk
from finetune.files import refuse_lost_folder, write_atomically
from finetune.optim.first_steps import FirstSteps
from finetune.processes.signals import StopRequest
from finetune.run.base_loss import base_loss_warnings
from finetune.run_folder.metrics import MetricsFile
from finetune.run_folder.options import data_card
from finetune.session import LoadedModel, Progress, Records, Run, Session, TrainingData, Tuned
from finetune.setup.machines import record_start
from finetune.setup.network import load_live_parts, with_trained_prompts
from finetune.setup.tracking import open_trackers
from finetune.tasks.base import Task


@contextmanager
def open_session(
    run: Run, model: LoadedModel, data: TrainingData, tuned: Tuned, task: Task, *, desk: Desk | None, from_scratch: bool
) -> Iterator[Session]:
    """Yield the session, whose failure the trackers record. A model `from_scratch` is not checked against its
    objective."""
    load_live_parts(run, model, data.dataset.encoded)
    data = with_trained_prompts(run, model, data)
    start = Progress() if run.resume is None else run.resume.progress()
    found = []
    if start.step == 0 and not from_scratch:
        found = base_loss_warnings(tuned.network, task, data.dataset, run.accelerator.device)
        run.warn(found)
    record_start(run, start.step)
    records = Records(None, None)
    if run.accelerator.is_main_process:
        refuse_lost_folder(run.lock, run.folder)
        write_atomically(run.folder / "config.yaml", dump(run.config))
        warnings = [*run.warnings, *model.warnings, *data.warnings, *found]
        figures = [asdict(figure) for figure in data.figures]
        counts = folder_counts(run.manifest, data.held_out_indices)
        card = data_card(run.manifest, data.held_out_indices, figures, tuned.counts, warnings, counts)
        write_atomically(run.folder / "data_card.json", card)
        metrics = MetricsFile(
            run.folder / "metrics.jsonl", start.metrics_bytes, start.step, lambda text: run.warn([text])
        )
        records = Records(metrics, open_trackers(run, model, data, tuned))
    options, scheduler = model.objective.options, model.components.scheduler
    components = replace(model.components, scheduler=run.family.sampling_scheduler(scheduler, options))
    stop = StopRequest()
    stop.install()
    try:
        watch = None
        if run.accelerator.is_main_process:  # all processes have the same weights
            watch = FirstSteps(tuned.optimizer, in_backward=run.config.optim.in_backward)
        yield Session(run, model, data, tuned, task, records, components, stop, start, watch, desk)
    except Exception:
        if records.tracker:
            records.tracker.finish(1)
        raise
