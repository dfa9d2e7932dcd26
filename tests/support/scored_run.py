"""The folder of a run that was scored, with small images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from PIL import Image

PROMPTS = (("a lighthouse, ink", "user"), ("a boat, ink", "new_content"), ("a cup", "neutral"))
LONG = "averyveryverylongwordwithoutanyplacetobreak" * 8
"""A word that breaks no line."""
SEEDS = (0, 1)
STEPS = (50, 100, 200)
MEANINGS = {"style": "Likeness. Higher is better.", "adherence": "Fit. Higher is better.", "memorisation": "Copies."}
CONFIG = "model:\n  source: models/tiny\n  family: sd\ndata:\n  folder: {data}\n  resolution: 64\noptim:\n  lr: {lr}\n"


def score(name: str, value: float, **detail: Any) -> dict[str, Any]:
    cells = [[value + 0.01 * (prompt - seed) for seed in SEEDS] for prompt in range(len(PROMPTS))]
    better = "lower" if name == "memorisation" else "higher"
    made = {"meaning": MEANINGS[name], "better": better, "features": "pixels", "value": value, "num_images": 6}
    return made | {"low": value - 0.05, "high": value + 0.05, "cells": cells, "prompts": [0, 1, 2], "detail": detail}


def scores_of(style: float) -> dict[str, Any]:
    copies = [{"prompt": 0, "seed": 1, "training_image": "b.png", "cosine": 0.99}]
    return {
        "style": score("style", style),
        "adherence": score("adherence", 0.9, base=0.95),
        "memorisation": score("memorisation", 0.3, false_alarms=0.05, copies=copies),
        "kid": {"meaning": "Distance.", "better": "lower", "features": "pixels", "reason": "the sets are too small"},
    }


def draw_grid(folder: Path, level: int, num_prompts: int = len(PROMPTS), seeds: tuple[int, ...] = SEEDS) -> None:
    """Draw an image of grey noise for each prompt and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for prompt in range(num_prompts):
        for seed in seeds:
            noise = np.random.default_rng([level, prompt, seed]).integers(0, 16, (64, 64, 3))
            Image.fromarray((noise + level).astype(np.uint8)).save(folder / f"prompt{prompt:02d}_seed{seed}.png")


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_export(folder: Path, steps: int, base: str = "b" * 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"ss_steps": str(steps), "ss_mixed_precision": "no", "ss_base_weights_sha256": base}
    for name in (f"{folder.parent.name}.safetensors", "pytorch_lora_weights.safetensors"):
        safetensors.numpy.save_file({"up": np.zeros(2, np.float32)}, folder / name, fields)


def write_metrics(folder: Path, lowest: int = 100) -> None:
    rows = [{"step": 0, "validation/loss": 0.5}]
    for step in range(10, 201, 10):
        row = {"step": step, "loss": 0.3 + 1 / step, "lr": 1e-4, "images_seen": 8 * step, "elapsed_seconds": step}
        rows.append(row | ({"validation/loss": 0.3 + abs(step - lowest) / 1000} if step % 50 == 0 else {}))
    write_lines(folder / "metrics.jsonl", rows)


def plain_run(folder: Path, data: str = "prepared/ink", lr: str = "1e-4", base: str = "b" * 64) -> Path:
    """Write a run without scores."""
    folder.mkdir(parents=True)
    write_metrics(folder)
    (folder / "config.yaml").write_text(CONFIG.format(data=data, lr=lr))
    card = {"location": data, "fingerprint": f"of {data}", "num_pictures": 10, "num_train": 8, "num_validation": 2}
    (folder / "data_card.json").write_text(json.dumps(card | {"warnings": ["a gradient exploded at step 3"]}))
    write_export(folder / "export", 200, base)
    return folder


def scored_run(
    folder: Path,
    prompts: tuple[tuple[str, str], ...] = PROMPTS,
    style: Mapping[int, float] = {50: 0.5, 100: 0.7, 200: 0.8},
    chosen: int = 200,
    **options: str,
) -> Path:
    """Write a run with scored steps. One is chosen, at strength 0.75."""
    plain_run(folder, **options)
    texts = [{"text": text, "content": text, "kind": kind, "reference": None} for text, kind in prompts]
    grid = {"prompts": texts, "seeds": list(SEEDS), "has_trigger": True, "base_images": "scored/base"}
    (folder / "grid.json").write_text(json.dumps(grid))
    draw_grid(folder / "scored" / "base", 200)
    rows = []
    for step in STEPS:
        draw_grid(folder / "scored" / f"step_{step:06d}", 150 - step // 2)
        for name, level in (("strength_0.50", 170), ("strength_0.75", 160)):
            draw_grid(folder / "scored" / f"step_{step:06d}" / name, level - step // 2, 2, SEEDS[:1])
        row = {"step": step, "target": f"step {step}", "images": f"scored/step_{step:06d}", "has_trigger": True}
        rows.append(row | {"scores": scores_of(style[step]), "features": {"style": "pixels"}})
    write_lines(folder / "scores.jsonl", rows)
    draw_grid(folder / "scored" / "strengths" / f"step_{chosen:06d}-0.75", 20)
    draw_grid(folder / "scored" / "strengths" / f"step_{chosen:06d}-0.50", 30)
    sweep = [{"strength": value, "scores": {"style": score("style", value)}} for value in (0.5, 0.75, 1.0, 1.25)]
    strengths = {"best": 0.75, "usable": [0.5, 1.0], "reason": "Beyond 1 adherence falls.", "rows": sweep}
    best = {"step": chosen, "target": f"step {chosen}", "goal": "style", "rule": "highest style likeness"}
    best |= {"reason": f"step {chosen} has style likeness {style[chosen]:.3f}.", "warnings": ["few images"]}
    best |= {"runner_up": {"step": 100, "target": "step 100"}, "strengths": strengths, "no_difference_shows": False}
    (folder / "best.json").write_text(json.dumps(best))
    return folder
