"""Runs of recipes as processes, and images of their checkpoints.

A run's folder keeps its command, its log and the images. The run itself, with its checkpoints, is removed once all
images are drawn: eight checkpoints of all weights are 1.2 GB.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptation.images import Drawing, keep, read_kept
from adaptation.methods import SHARED, Method
from finetune.config.parse.recipe_options import parse_recipe
from finetune.demo.run import BASE_MODEL, PACKAGES
from finetune.methods.base import TuningMethod
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family
from finetune.models.parts import PARTS, load_sequentially
from finetune.optim.ema import load_trained_state
from finetune.planning.recipe import Recipe
from finetune.run.checkpoint import load_checkpoint
from finetune.run.scoring.weights import at_strength
from finetune.run_folder.checkpoints import complete_steps


@dataclass(frozen=True)
class Point:
    """A step of a run, and the strength of its adapters."""

    step: int
    strength: float = 1.0

    @property
    def name(self) -> str:
        """The name of its file of images."""
        return f"step{self.step}" + ("" if self.strength == 1 else f"-strength{self.strength:g}")


Drawer = Callable[[Point], Any]
"""Returns the pipeline of a point."""


@dataclass(frozen=True)
class Job:
    """A method on a dataset."""

    method: Method
    data: Path
    caption: str
    """The subject's class; empty for a style."""
    points: tuple[Point, ...]
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.method.part}-{self.data.name}-{self.method.name}-seed{self.seed}"

    @property
    def steps(self) -> int:
        """The steps of the run."""
        return max(point.step for point in self.points)

    def command(self, run: Path, cache: Path) -> list[str]:
        """Return the recipe's command."""
        method, every = self.method, min(point.step for point in self.points)
        named = method.template.format(caption=self.caption)
        if method.captions == "prompts":
            naming = ("--instance.prompt", named)
            naming += () if method.options[-1] == "none" else ("--prior.prompt", self.caption)
        elif method.captions == "none":
            naming = ("--data.captions", "none", "--data.template", named)
        else:
            naming = ("--data.template", method.template)
        options = [
            *SHARED,
            *method.options,
            *naming,
            "--model.source",
            str(BASE_MODEL),
            "--data.folder",
            str(self.data),
        ]
        options += ["--train.steps", str(self.steps), "--optim.warmup_steps", str(min(10, self.steps // 2))]
        options += ["--checkpoint.every", str(every), "--checkpoint.keep", str(self.steps // every + 1)]
        options += ["--seed", str(self.seed), "--output.folder", str(run), "--cache.folder", str(cache)]
        return [sys.executable, "-m", method.recipe, *options]


def draw_job(work: Path, job: Job, drawing: Drawing) -> dict[Point, np.ndarray] | None:
    """Return the images of each point; None where the recipe failed.

    What they need is trained first.
    """
    folder = work / job.name

    def train(run: Path) -> Drawer:
        if not (run / "run.json").exists():
            start(job.command(run, work / "cache"), folder / "log")
        return trained_pipeline(run, job.method)

    return draw_points(folder, job.command(Path("run"), Path("cache")), job.points, drawing, train)


def draw_points(
    folder: Path, command: list[str], points: Sequence[Point], drawing: Drawing, train: Callable[[Path], Drawer]
) -> dict[Point, np.ndarray] | None:
    """Return the images of each point, or None where training failed.

    `train` receives the run's folder. Raises ValueError where the folder holds another command's run.
    """
    written = folder / "command.json"
    if written.exists() and json.loads(written.read_text()) != command:
        raise ValueError(f"--work: {folder} holds the run of another command. Choose another folder, or delete it.")
    found = {point: read_kept(folder / f"{point.name}.npz", drawing) for point in points}
    missing = [point for point in points if found[point] is None]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(command))
        print(f"{folder.name}: {len(missing)} of {len(points)} points to draw", flush=True)
        try:
            pipeline = train(folder / "run")
        except subprocess.CalledProcessError as error:
            print(f"{folder.name}: the command ended with {error.returncode}; see {folder / 'log'}.", flush=True)
            return None
        for point in missing:
            found[point] = keep(folder / f"{point.name}.npz", drawing, drawing.draw(pipeline(point)))
        shutil.rmtree(folder / "run")
    return {point: images for point, images in found.items() if images is not None}


def start(command: Sequence[str], log: Path) -> None:
    """Run a command on the CPU. Its output is added to the log."""
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"}
    with log.open("ab") as file:
        subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT, env=environment)


def trained_pipeline(run: Path, method: Method) -> Drawer:
    """Return what draws with the checkpoint of a step. All have one network, as the run had it."""
    recipe: Recipe[Any] = importlib.import_module(method.recipe).RECIPE
    config, _ = parse_recipe(recipe.config, ["--config", str(run / "config.yaml")], method.recipe, print)
    source = ModelSource.from_config(config.model)
    family = family_named(find_family(source, config.model.family))
    components = load_sequentially(family, source, keep=PARTS).components
    assert recipe.method is not None, "recipes of the list have one method"
    tuning: TuningMethod = recipe.method(config)  # pyright: ignore[reportAssignmentType]
    network = tuning.network(family, components)
    tuning.attach(network, config.seed)
    network.eval()
    pipeline = family.pipeline(components)
    pipeline.set_progress_bar_config(disable=True)
    folders = dict(complete_steps(run / "checkpoints"))

    def at(point: Point) -> Any:
        load_trained_state(network, load_checkpoint(folders[point.step]).trained)
        return pipeline if point.strength == 1 else AtStrength(pipeline, network, point.strength)

    return at


@dataclass(frozen=True)
class AtStrength:
    """A pipeline that draws with weaker adapters."""

    pipeline: Any
    network: Any
    strength: float

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Draw as the pipeline does."""
        with at_strength(self.network, self.strength):
            return self.pipeline(*arguments, **options)
