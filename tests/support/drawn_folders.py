"""Folders with images as runs, evaluations and `finetune generate` leave them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from finetune.evaluate.drawing import image_path, save
from finetune.sampling.generate import write_list
from finetune.sampling.metadata import Drawn, png_texts, save_png
from tests.support.images import drawn

PROMPTS = ("a red apple, ink style", "a café at night")
CONFIG = """\
model:
  source: models/base
preview:
  prompts:
    - a red apple, ink style --n blurry
    - a café at night --s 8 --l 3 --d 5
  num_inference_steps: 20
"""


def add_previews(run: Path, *steps: int) -> None:
    """Add previews of steps to a run, as `finetune.run.preview` writes them."""
    (run / "previews").mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(CONFIG)
    lines = ["a red apple, ink style --n blurry", "a café at night --s 8 --l 3 --d 5"]
    (run / "previews" / "previews.json").write_text(json.dumps({"prompts": lines, "seeds": [0], "steps": list(steps)}))
    for step in steps:
        for number, seed in ((0, 0), (1, 5)):
            path = run / "previews" / f"step_{step:06d}_prompt{number:02d}_seed{seed}.png"
            drawn(1000 * step + number + 1, (32, 32)).save(path)


def score(values: list[list[float]], meaning: str = "style likeness; higher is better") -> dict[str, object]:
    mean = float(np.mean(values))
    return {
        "meaning": meaning,
        "better": "higher",
        "features": "pixels",
        "value": mean,
        "low": mean - 0.25,
        "high": mean + 0.25,
        "num_images": 4,
        "prompts": [0, 1],
        "cells": values,
    }


def add_scored(folder: Path, images: Mapping[str, int | None], start: float = 0.5) -> None:
    """Add scored images to a folder. `images` has a step by place, None for the base model."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = [{"text": text, "content": text, "kind": "user", "reference": None} for text in PROMPTS]
    (folder / "grid.json").write_text(json.dumps({"prompts": grid, "seeds": [0, 1], "has_trigger": True}))
    rows = []
    for count, (place, step) in enumerate(images.items()):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(PROMPTS):
            for seed in (0, 1):
                pixels = np.asarray(drawn(10_000 * len(folder.name) + 100 * count + 10 * number + seed, (32, 32))) / 255
                note = {"prompt": prompt, "seed": seed, "target": place}
                save(pixels, image_path(folder / place, number, seed), note)
        if step is not None and "strength" not in place:
            cells = [[start + 0.1 * count, start], [start, start + 0.2]]
            row = {"step": step, "target": f"ink-{step}", "id": f"{step}", "images": place}
            rows.append(
                row | {"scores": {"style": score(cells), "kid": {"meaning": "m", "better": "lower", "reason": "few"}}}
            )
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_generated(folder: Path, *prompts: str, **settings: object) -> None:
    """Add images of `finetune generate`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, prompt in enumerate(prompts):
        given = {
            "negative_prompt": "blurry",
            "width": 32,
            "height": 32,
            "seed": number,
            "num_inference_steps": 30,
            "guidance_scale": 7.5,
            "sampler": "Euler a",
            "scheduler": "EulerAncestralDiscreteScheduler",
            "model": "models/base.safetensors",
            "embeddings": [],
            "key": f"k{number}",
            "adapters": [{"name": "ink.safetensors", "hash": "ab" * 32, "strength": 0.75}],
            **settings,
        }
        image = Drawn(prompt=prompt, **given)  # pyright: ignore[reportArgumentType]
        path = folder / f"image_{number:03d}.png"
        save_png(drawn(900 + number, (32, 32)), path, png_texts(image))
        found[path.name] = image.as_json()
    write_list(folder, found)


def make_runs(folder: Path) -> Path:
    """Make a folder of runs. It has a scored run, an evaluation and drawn images."""
    add_previews(folder / "ink", 0, 100)
    add_scored(
        folder / "ink", {"scored/base": None, "scored/step_000100": 100, "scored/strengths/step_000100-0.75": 100}
    )
    best = {
        "step": 100,
        "target": "ink-100",
        "strengths": {
            "best": 0.75,
            "usable": [0.5, 1.0],
            "rows": [{"strength": 0.75, "scores": {"style": score([[0.9, 0.9], [0.9, 0.9]])}}],
        },
    }
    (folder / "ink" / "best.json").write_text(json.dumps(best))
    add_scored(folder / "evaluated", {"images/base-0123456789-01234567": None, "images/target-0123456789-89abcdef": 40})
    add_generated(folder / "ink" / "drawn", "=1+1 apple", "ein Häuschen im Wald")
    return folder
