"""The prompts that checkpoints are scored with, before any model loads."""

from dataclasses import replace

from finetune.config.drawing.options import read_notation
from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.config.evaluate import DrawConfig
from finetune.config.train import TrainConfig
from finetune.data.class_images import instance_images
from finetune.evaluate.command import grid_notes
from finetune.evaluate.grid import make_grid
from finetune.evaluate.running.desk import Desk
from finetune.processes.ranks import ranks
from finetune.run_folder.options import held_out_indices
from finetune.session import Run


def subject_of(config: TrainConfig) -> str | None:
    """Read the subject's prompt of DreamBooth."""
    return config.instance.prompt if isinstance(config, DreamBoothTrainConfig) else None


def open_desk(run: Run) -> Desk | None:
    """Return the desk of a scored run. It has the rows up to the run's first step. Raises ValueError where the dataset
    leaves too few prompts."""
    config, evaluate, preview = run.config, run.config.evaluate, run.config.preview
    if evaluate.every == 0:
        return None
    held_out = held_out_indices(run.manifest.records, config.validation)
    records, places = instance_images(run.manifest.records, held_out)
    prompts = tuple(read_notation(line)[0].prompt for line in preview.prompts)
    asked = replace(evaluate.grid, subject=evaluate.grid.subject or subject_of(config))
    if evaluate.goal == "subject" and asked.subject is None:
        raise ValueError(
            "evaluate.grid.subject: missing with evaluate.goal subject, expected the subject's prompt. Use: "
            '--evaluate.grid.subject "a photo of sks dog".'
        )
    try:
        grid = make_grid(records, places, asked, config.data.template, prompts)
    except ValueError as error:
        raise ValueError(f"evaluate.{error}".replace("--grid.", "--evaluate.grid.")) from error
    for line in grid_notes(grid)[1:]:
        run.say(line)
    draw = DrawConfig(
        size=preview.size or config.data.resolution,
        num_inference_steps=evaluate.num_inference_steps,
        guidance_scale=preview.guidance_scale,
        negative_prompt=preview.negative_prompt,
    )
    desk = Desk.opened(evaluate, run.folder, grid, run.manifest.fingerprint, draw, run.first_step)
    ranks().exchange()  # all have read what one changes now
    if ranks().rank == 0:
        desk.remove_stale(run.first_step)
    return desk
