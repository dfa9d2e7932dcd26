"""`finetune demo`: a style set, its preparation, a LoRA run, a comparison."""

# diffusers annotates results as tuples, images as several kinds of them, and folders as str alone.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from finetune.launch import quiet_libraries

PACKAGES = Path(__file__).parents[2]
"""The folder of `finetune`, `recipes` and `datasets_prep`."""
BASE_MODEL = PACKAGES / "finetune" / "assets" / "pictograms"
PRESET = PACKAGES / "recipes" / "configs" / "demo.yaml"
PROMPTS = ("camera", "key", "bell", "fish", "sailboat", "guitar", "car", "book")
"""Concepts that the base model knows in many styles, and that the style set does not show."""
STYLE_GLYPHS = "☂😎♞⚓☎❀✈🐭"
DRAWN_STEPS = 30
"""Of the sampler; a demo of fewer training steps, as for a try, draws in as few."""
ADAPTER_WEIGHT = 0.65  # at 1 the shapes of the style set begin to replace those of the prompt
GUIDANCE_SCALE = 5.0  # at 3 the shapes of thin things break at a lower weight of the adapter
SEED = 0
CELL = 168
LABEL = 24

LAUNCH_CONFIG = """\
compute_environment: LOCAL_MACHINE
distributed_type: "NO"
use_cpu: true
num_machines: 1
num_processes: 1
mixed_precision: "no"
"""


def run_demo(output: Path, steps: int | None = None) -> Path:
    """Run all missing stages below `output`; return the before/after image. It is kept where it is newer than the LoRA.
    Raises subprocess.CalledProcessError where a stage that is a command fails; the command has printed why."""
    console = Console()
    started = time.monotonic()
    quiet_libraries()
    output.mkdir(parents=True, exist_ok=True)
    glyphs, prepared, run = output / "pictures", output / "prepared", output / "run"

    console.print("[bold]1/4[/] Drawing the style: glyphs in ink on paper, four of them twice, and a torn file")
    from finetune.demo.glyphs import write_glyph_folder

    if not glyphs.exists():
        write_glyph_folder(glyphs)

    console.print("[bold]2/4[/] Preparing the images: datasets_prep")
    printed = start("datasets_prep", "--source", glyphs, "--output", prepared, silent=True)
    console.print(printed.partition("\nNext:")[0], highlight=False, markup=False, soft_wrap=True)

    console.print("[bold]3/4[/] Adapting the model of icons to the style: recipes.lora under accelerate launch")
    launch_recipe(output, prepared, run, steps)

    console.print("[bold]4/4[/] Drawing the same prompts and seeds before and after")
    image = output / "before_after.png"
    if not is_newer(image, run / "export"):
        before_and_after(run / "export", glyphs, image, DRAWN_STEPS if steps is None else min(steps, DRAWN_STEPS))
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
    console.print(f"  image: {image}\n  report:  {run / 'report.html'}", highlight=False, soft_wrap=True)
    return image


def is_newer(file: Path, folder: Path) -> bool:
    """Compare a file, which may be absent, with those in a folder."""
    return file.exists() and file.stat().st_mtime_ns > max(each.stat().st_mtime_ns for each in folder.iterdir())


def start(module: str, *arguments: object, silent: bool = False, **environment: str) -> str:
    """Run a module in a process, as a user would. Return its output if `silent`."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    stdout = subprocess.PIPE if silent else None
    environment = os.environ | {"PYTHONPATH": path, **environment}
    ended = subprocess.run(command, check=True, text=True, stdout=stdout, env=environment)
    return ended.stdout or ""


def launch_recipe(output: Path, prepared: Path, run: Path, steps: int | None) -> None:
    """Train the LoRA on the prepared images into the folder `run`. `steps` replaces the preset's steps."""
    config = output / "accelerate_cpu.yaml"
    config.write_text(LAUNCH_CONFIG)
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())  # else the launcher explains its choice
    launcher = ["-q", "--config_file", config, "--num_cpu_threads_per_process", threads, "-m", "recipes.lora"]
    options = ["--config", PRESET, "--model.source", BASE_MODEL, "--data.folder", prepared]
    options += ["--output.folder", run, "--cache.folder", output / "cache"]
    options += [] if steps is None else ["--train.steps", str(steps)]
    start("accelerate.commands.launch", *launcher, *options)


def before_and_after(export: Path, glyphs: Path, target: Path, num_steps: int) -> None:
    """Write a sheet with one column per prompt. Rows are the base model, the LoRA, and images of the style set."""
    import torch
    from diffusers import DiffusionPipeline, logging

    from finetune.demo.glyphs import file_stem

    logging.disable_progress_bar()
    pipeline: Any = DiffusionPipeline.from_pretrained(BASE_MODEL)
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompts: list[str]) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(SEED) for _ in prompts]
        drawn = pipeline(prompts, num_inference_steps=num_steps, guidance_scale=GUIDANCE_SCALE, generator=generators)
        return drawn.images

    before = draw(list(PROMPTS))
    pipeline.load_lora_weights(export, adapter_name="style")
    pipeline.set_adapters("style", ADAPTER_WEIGHT)
    after = draw(list(PROMPTS))
    style = [Image.open(glyphs / f"{file_stem(glyph)}.png") for glyph in STYLE_GLYPHS]
    rows = {"before": before, "after the LoRA": after, "the style set": style}
    sheet = Image.new("RGB", (CELL * (len(PROMPTS) + 1), LABEL + CELL * len(rows)), "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, prompt in enumerate(PROMPTS, start=1):
        text.text((CELL * column + CELL // 2, LABEL // 2), prompt, "black", font, anchor="mm")
    for row, (label, drawn) in enumerate(rows.items()):
        top = LABEL + CELL * row
        text.text((CELL // 2, top + CELL // 2), label, "black", font, anchor="mm")
        for column, image in enumerate(drawn, start=1):
            large = image.convert("RGB").resize((CELL - 6, CELL - 6), Image.Resampling.LANCZOS)
            sheet.paste(large, (CELL * column + 3, top + 3))
    sheet.save(target)
