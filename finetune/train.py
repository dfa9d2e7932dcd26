"""Assemble a run, train it, and leave its results. The same for all recipes, families and methods."""

from dataclasses import replace
from pathlib import Path

from finetune.config.train import TrainConfig
from finetune.data.manifest import Manifest
from finetune.loop import loop
from finetune.methods.base import TuningMethod
from finetune.processes.garbage import collect_as_usual
from finetune.run.finish import finish
from finetune.setup.data import prepare_data
from finetune.setup.desk import open_desk
from finetune.setup.model import load_model
from finetune.setup.network import attach, make_task, optimize
from finetune.setup.run import open_run
from finetune.setup.session import open_session
from finetune.sizing.work import work
from finetune.tasks.base import MakeTask
from finetune.tasks.denoising import denoising


def train(
    config: TrainConfig,
    method: TuningMethod,
    manifest: Manifest,
    task: MakeTask = denoising,
    *,
    from_scratch: bool = False,
) -> Path:
    """Train, save, export and report; return the run folder. A model that is trained `from_scratch` is not checked
    against its objective. Raises ValueError or OSError for mistakes that a user can mend, SystemExit(75) where a signal
    stopped the run after a checkpoint."""
    collect_as_usual()
    with open_run(config, manifest) as run:
        desk = open_desk(run)
        model = load_model(run, method)
        data = prepare_data(run, model, task.prompts)
        network = attach(run, model, method)
        learned = make_task(run, model, data, network, task)
        tuned = optimize(run, model, network, method)
        counted = work(run, model, data, method)
        with open_session(run, model, data, tuned, learned, desk=desk, from_scratch=from_scratch) as session:
            finish(session, loop(replace(session, work=counted)), method)
    return run.folder
