"""`finetune demo`: pictures, a tiny base model, the LoRA recipe under `accelerate launch`, and a picture to look at."""

# diffusers annotates tuples of several as tuples of one, and results as tuples.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

import os
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from finetune.launch import quiet_libraries

PROMPTS = (
    ("star", "red"),  # never drawn in chalk
    ("house", "orange"),
    ("tree", "green"),
    ("heart", "purple"),
    ("moon", "yellow"),
    ("flower", "red"),
    ("mushroom", "purple"),
    ("square", "yellow"),
)
NUM_CHALK_PICTURES = 48
SEED = 0
CELL = 112
LABEL = 24

LAUNCH_CONFIG = """\
compute_environment: LOCAL_MACHINE
distributed_type: "NO"
use_cpu: true
num_machines: 1
num_processes: 1
mixed_precision: "no"
"""


def run_demo(output: Path) -> Path:
    """Runs all stages below `output` and returns the before/after picture; stages that are complete are not done again.

    Raises subprocess.CalledProcessError where the recipe fails; it has said why.
    """
    console = Console()
    started = time.monotonic()
    quiet_libraries()
    output.mkdir(parents=True, exist_ok=True)
    base, pictures, run = output / "base", output / "pictures", output / "run"

    console.print("[bold]1/4[/] Drawing the style: chalk on a blackboard")
    from finetune.demo.drawings import write_chalk_folder

    if not (pictures / "metadata.jsonl").exists():
        write_chalk_folder(pictures, NUM_CHALK_PICTURES, SEED)

    console.print("[bold]2/4[/] Training a tiny base model that knows flat pictograms (no model is downloaded)")
    from finetune.demo.base_model import train_base_model

    columns = (TextColumn("    {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in ("autoencoder", "denoiser")}

        def progress(name: str, done: int, total: int) -> None:
            bar.update(tasks[name], completed=done, total=total)

        train_base_model(base, progress, SEED)

    console.print("[bold]3/4[/] Adapting it to the style: recipes.lora under accelerate launch")
    launch_recipe(output, base, pictures, run)

    console.print("[bold]4/4[/] Drawing the same prompts and seeds before and after")
    picture = before_and_after(base, run / "export", pictures, output / "before_after.png")
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
    console.print(f"  picture: {picture}\n  report:  {run / 'report.html'}", highlight=False, soft_wrap=True)
    return picture


def launch_recipe(output: Path, base: Path, pictures: Path, run: Path) -> None:
    """Runs the LoRA recipe in a process of its own, as a user would."""
    config = output / "accelerate_cpu.yaml"
    config.write_text(LAUNCH_CONFIG)
    preset = Path(__file__).parents[2] / "recipes" / "configs" / "demo.yaml"
    options = {"config": preset, "model.source": base, "data.folder": pictures, "output.folder": run}
    options["cache.folder"] = output / "cache"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "-q",
        "--config_file",
        str(config),
        "--num_cpu_threads_per_process",  # else the launcher prints a paragraph about its choice
        os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count()),
        "-m",
        "recipes.lora",
    ]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})


def before_and_after(base: Path, export: Path, pictures: Path, target: Path) -> Path:
    """Writes a sheet with a column a prompt; rows: untouched model, with the LoRA, and pictures of the style set."""
    import torch
    from diffusers import StableDiffusionPipeline

    from finetune.demo.drawings import PICTURE_SIZE, Subject

    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    subjects = [Subject(*pair) for pair in PROMPTS]

    def draw(prompts: list[str]) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(SEED) for _ in prompts]
        return pipeline(
            prompts, PICTURE_SIZE, PICTURE_SIZE, num_inference_steps=20, guidance_scale=1.5, generator=generators
        ).images

    before = draw([subject.caption for subject in subjects])
    pipeline.load_lora_weights(export)
    after = draw([subject.chalk_caption for subject in subjects])
    style = [Image.open(path) for path in sorted(pictures.glob("*.png"))[: len(subjects)]]
    rows = {"before": before, "after the LoRA": after, "the style set": style}
    sheet = Image.new("RGB", (CELL * (len(subjects) + 1), LABEL + CELL * len(rows)), "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, subject in enumerate(subjects, start=1):
        text.text((CELL * column + CELL // 2, LABEL // 2), subject.caption, "black", font, anchor="mm")
    for row, (label, drawn) in enumerate(rows.items()):
        top = LABEL + CELL * row
        text.text((CELL // 2, top + CELL // 2), label, "black", font, anchor="mm")
        for column, picture in enumerate(drawn, start=1):
            large = picture.convert("RGB").resize((CELL - 6, CELL - 6), Image.Resampling.LANCZOS)
            sheet.paste(large, (CELL * column + 3, top + 3))
    sheet.save(target)
    return target
