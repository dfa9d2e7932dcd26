"""LoRA runs of diffusers' own script, examples/text_to_image/train_text_to_image_lora.py.

The script runs as it is, on the base model's folder and the same images, whose captions hold the style's phrase. It
imports torchvision, which this project does not need; where that is not installed, torchvision_parts/run_script.py
gives it the few transforms that it uses.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from quality.drawing import load

from adaptation.images import Drawing
from adaptation.methods import BATCH_SIZE, PHRASE, RANK, RATE
from adaptation.runs import Drawer, Point, draw_points, start
from finetune.demo.run import BASE_MODEL
from finetune.files import new_folder

FILE = Path("text_to_image", "train_text_to_image_lora.py")
RUN_SCRIPT = Path(__file__).parent / "torchvision_parts" / "run_script.py"


@dataclass(frozen=True)
class Script:
    """The script with its rate and rank."""

    name: str
    path: Path
    rate: float
    rank: int
    points: tuple[Point, ...]

    def command(self, data: Path, run: Path) -> list[str]:
        """Return the command; what it does not name is the script's default."""
        options = {
            "pretrained_model_name_or_path": BASE_MODEL, "train_data_dir": data, "output_dir": run,
            "caption_column": "text", "resolution": 64, "train_batch_size": BATCH_SIZE,
            "max_train_steps": self.points[-1].step, "checkpointing_steps": self.points[0].step,
            "learning_rate": self.rate, "rank": self.rank, "seed": 0,
        }  # fmt: skip
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return [sys.executable, str(RUN_SCRIPT), str(self.path), "--random_flip", *flags]


def scripts_of(examples: Path | None, points: Sequence[Point], longer: Sequence[int]) -> list[Script]:
    """List the runs of a checkout's script.

    Its own rate and rank train for longer than ours.

    Raises FileNotFoundError where the folder has no such script.
    """
    if examples is None:
        return []
    path = examples.absolute() / FILE
    if not path.exists():
        raise FileNotFoundError(f"--diffusers_examples: no {path}. Give the folder examples of a diffusers checkout.")
    steps = tuple(points)
    further = tuple(Point(step) for step in longer if step > steps[-1].step)
    return [
        Script("diffusers' script", path, 1e-4, 4, steps + further),
        Script("diffusers' script, our rate and rank", path, RATE, RANK, steps),
    ]


def captioned(data: Path, folder: Path) -> Path:
    """Write a set once more with the phrase in its captions."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder) as unfinished:
            rows = []
            for line in (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                shutil.copyfile(data / row["file_name"], unfinished / row["file_name"])
                text = PHRASE.format(caption=row["text"])
                rows.append(json.dumps({"file_name": row["file_name"], "text": text}) + "\n")
            (unfinished / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


def draw_script(work: Path, script: Script, data: Path, drawing: Drawing) -> dict[Point, np.ndarray] | None:
    """Return the images of each point; None where the script failed.

    What they need is trained first.
    """
    folder = work / f"style-{data.name}-diffusers-rate{script.rate:g}-rank{script.rank}"

    def train(run: Path) -> Drawer:
        if not (run / "pytorch_lora_weights.safetensors").exists():
            shutil.rmtree(run, ignore_errors=True)
            images = captioned(data, work / "captioned" / data.name)
            start(script.command(images, run), folder / "log")

        def at(point: Point) -> Any:
            pipeline = load(BASE_MODEL)
            pipeline.load_lora_weights(run / f"checkpoint-{point.step}")  # pyright: ignore[reportArgumentType]
            return pipeline

        return at

    return draw_points(folder, script.command(Path("captioned"), Path("run")), script.points, drawing, train)
