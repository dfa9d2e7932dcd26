"""Images [N H W 3] in [0, 1] that a work folder keeps, and datasets read as such."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from quality.drawing import draw

GUIDANCE = 3.0
FIRST_SEED = 10
"""Lower ones choose the concepts."""
CaptionedImages = tuple[list[str], np.ndarray]
"""Captions, and the image of each."""


@dataclass(frozen=True)
class Drawing:
    """Prompts, and how they are drawn."""

    prompts: tuple[str, ...]
    steps: int
    num_seeds: int = 1
    first_seed: int = FIRST_SEED

    def identity(self) -> str:
        """Return all that decides the images, beside the model."""
        return json.dumps([self.prompts, self.steps, self.num_seeds, self.first_seed, GUIDANCE])

    def draw(self, pipeline: Any) -> np.ndarray:
        """Draw all prompts with the first seed, then with the next."""
        seeds = range(self.first_seed, self.first_seed + self.num_seeds)
        texts = [prompt for _ in seeds for prompt in self.prompts]
        return draw(pipeline, texts, [seed for seed in seeds for _ in self.prompts], GUIDANCE, self.steps)


def read_kept(path: Path, drawing: Drawing) -> np.ndarray | None:
    """Read the images of a drawing. None where the file has others or is absent."""
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return arrays["images"] / 255.0 if str(arrays["identity"]) == drawing.identity() else None


def keep(path: Path, drawing: Drawing, images: np.ndarray) -> np.ndarray:
    """Write the images of a drawing; return them as read."""
    levels = (images * 255).round().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    np.savez_compressed(unfinished, images=levels, identity=drawing.identity())
    unfinished.replace(path)
    return levels / 255.0


def kept_or_drawn(path: Path, drawing: Drawing, pipeline: Callable[[], Any]) -> np.ndarray:
    """Read a drawing's images, or load the model and draw."""
    found = read_kept(path, drawing)
    return keep(path, drawing, drawing.draw(pipeline())) if found is None else found


def read_set(folder: Path) -> CaptionedImages:
    """Read a folder of images with its metadata.jsonl.

    Raises FileNotFoundError where it has none.
    """
    listed = folder / "metadata.jsonl"
    if not listed.exists():
        raise FileNotFoundError(f"--data: no {listed}. Give the folder that holds the style sets.")
    rows = [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()]
    images = [np.asarray(Image.open(folder / row["file_name"]).convert("RGB").resize((64, 64))) for row in rows]
    return [row["text"] for row in rows], np.stack(images) / 255.0


def by_prompt(images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Group images of a drawing by prompt, one per seed."""
    return {prompt: images[place :: len(prompts)] for place, prompt in enumerate(prompts)}
