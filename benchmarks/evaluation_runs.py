"""LoRA runs whose scores are known to rank, evaluated by the command."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaptation.methods import TARGETS
from evaluation_cases import Claim, Values
from PIL import Image

from finetune.demo.run import BASE_MODEL, PACKAGES

STYLES = ("style_line", "style_blob", "style_glyph", "style_freehand")
STEPS = (30, 150, 400)
OVER_TRAINED = 400
NUM_COPIES = 24
"""Images of the set that shows one thing: it and mirrored, in six sizes on the paper."""
PRESET = PACKAGES / "recipes" / "configs" / "demo.yaml"
Scores = dict[str, dict[str, Any]]
TRAINED_CLAIMS = (
    Claim("style: 30 steps < 150 steps", "style", "30", "150"),
    Claim("style: 30 steps < 400 steps", "style", "30", "400"),
    Claim("style: base model < 30 steps", "style", "zero", "30"),
    Claim("memorisation: four images are over false alarms + 0.15", "memorisation", "four alarms", "four", 0.15),
    Claim("memorisation: 60 images, 150 steps, are under 0.2", "memorisation", "150", "0.2"),
    Claim("leak: varied set < the same thing in every image", "leak", "150", "one thing"),
)


def trained_scores(data: Path, work: Path, trial: int) -> Values:
    """Train and score the runs of a trial. Its number chooses style and seed."""
    style, seed = STYLES[trial % len(STYLES)], trial // len(STYLES)
    own = work / f"{style}-seed{seed}"
    few, thing = own / "four images", own / "one thing"
    choose_images(data / style, few, (0, 7, 14, 21))
    repeat_image(data / style, thing, number=seed)
    runs = {str(steps): train(data / style, own / f"steps{steps}", steps, seed) for steps in STEPS}
    others = {"four": (few, OVER_TRAINED), "one thing": (thing, STEPS[1])}
    of_style = score(list(runs.values()), data / style, own / "scores")
    found = dict(zip(runs, of_style, strict=True))
    for name, (folder, steps) in others.items():
        run = train(folder, own / f"run of {name}", steps, seed)
        (found[name],) = score([run], folder, own / f"scores of {name}")
    values: Values = {name: {key: each.get("value") for key, each in row.items()} for name, row in found.items()}
    alarms = found["four"]["memorisation"].get("detail", {}).get("false_alarms", 0.0)
    constant = {"zero": 0.0, "0.2": 0.2, "four alarms": alarms}
    return values | {name: dict.fromkeys(values["four"], value) for name, value in constant.items()}


def choose_images(source: Path, folder: Path, numbers: Sequence[int]) -> None:
    """Make a dataset of a few images of another."""
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / rows[number]["file_name"]).write_bytes((source / rows[number]["file_name"]).read_bytes())
    chosen = "".join(json.dumps(rows[number]) + "\n" for number in numbers)
    (folder / "metadata.jsonl").write_text(chosen, encoding="utf-8")


def repeat_image(source: Path, folder: Path, number: int) -> None:
    """Make a dataset that shows one thing at other sizes and places."""
    row = json.loads((source / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[number])
    image = Image.open(source / row["file_name"]).convert("RGB")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for place in range(NUM_COPIES):
        paper = Image.new("RGB", image.size, image.getpixel((0, 0)))
        side = image.width - 4 * (place % 6)
        free = image.width - side
        paper.paste(image.resize((side, side), Image.Resampling.LANCZOS), (free * (place // 6) // 3, free // 2))
        paper.save(folder / f"{place:02d}.png")
        rows.append({"file_name": f"{place:02d}.png", "text": row["text"]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


def train(data: Path, folder: Path, steps: int, seed: int, further: Sequence[str] = ()) -> Path:
    """Run or continue a LoRA on a dataset; return its folder.

    It is the demo's, but on all blocks and timesteps, as in methods.py: the demo's keep the layout of its prompts.
    """
    options = ["--config", str(PRESET), "--model.source", str(BASE_MODEL), "--data.folder", str(data)]
    options += ["--output.folder", str(folder), "--cache.folder", str(folder.parent / "cache"), "--seed", str(seed)]
    options += ["--train.steps", str(steps), "--optim.warmup_steps", "5", "--preview.prompts", "--tracking.names"]
    options += ["--preview.guidance_scale", "3", "--loss.max_timestep", "none", *TARGETS]
    start("recipes.lora", *options, *further)
    return folder


def score(runs: Sequence[Path], data: Path, output: Path) -> list[Scores]:
    """Evaluate runs by the command; return the scores of each."""
    options = ["--data.folder", str(data), "--data.validation_fraction", "0", "--output", str(output)]
    options += ["--draw.guidance_scale", "3", "--draw.num_inference_steps", "20", "--grid.num_prompts", "6"]
    start("finetune.cli", "evaluate", *map(str, runs), *options)
    rows = [json.loads(line) for line in (output / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    by_name = {row["target"]: row["scores"] for row in rows}
    return [by_name[run.name] for run in runs]


def start(module: str, *arguments: str) -> None:
    """Run a module in a process, as a user would."""
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"}
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=environment)
