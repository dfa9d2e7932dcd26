"""Runs of benchmarks/method_list.py as processes, and drawings from their exports. Both happen once per work folder."""

# diffusers annotates results as tuples and folders as str alone.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from method_list import SHARED, Method
from quality.drawing import draw, load

from finetune.demo.run import BASE_MODEL, PACKAGES

GUIDANCE = 3.0


@dataclass(frozen=True)
class Sampling:
    """How all images are drawn."""

    num_seeds: int
    """Images of each prompt, from the seeds 0, 1, ..."""
    steps: int


def train(work: Path, method: Method, data: Path, caption: str, steps: int, seed: int) -> Path:
    """Run or continue the recipe in its folder, and return that.

    The folder belongs to a method, data and seed.

    Raises subprocess.CalledProcessError where it fails; the log beside it says why. ValueError where the folder holds
    another command's run.
    """
    folder = work / f"{method.part}-{data.name}-{method.name}-{steps}-seed{seed}"
    named = method.template.format(caption=caption)
    if method.captions == "prompts":
        naming = ("--instance.prompt", named)
        naming += () if method.options[-1] == "none" else ("--prior.prompt", caption)
    elif method.captions == "none":
        naming = ("--data.captions", "none", "--data.template", named)
    else:
        naming = ("--data.template", method.template)
    options = [*SHARED, *method.options, *naming, "--model.source", str(BASE_MODEL), "--data.folder", str(data)]
    options += ["--train.steps", str(steps), "--seed", str(seed), "--output.folder", str(folder / "run")]
    command = [sys.executable, "-m", method.recipe, *options, "--cache.folder", str(work / "cache")]
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "command.json"
    if written.exists() and json.loads(written.read_text()) != command:
        raise ValueError(f"{folder} holds the run of another command. Choose another --work, or delete it.")
    written.write_text(json.dumps(command))
    if not (folder / "run" / "run.json").exists():
        path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"}
        with (folder / "log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)
    return folder


def drawn(folder: Path, prompts: Sequence[str], sampling: Sampling, export: Path | None) -> np.ndarray:
    """Draw the prompts, seed by seed, as [N H W 3].

    The model is the base model or has an export. Images are kept in the folder and drawn again for another list of
    prompts.
    """
    asked = json.dumps([list(prompts), sampling.num_seeds, sampling.steps])
    kept = folder / "pictures.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            if str(arrays["asked"]) == asked:
                return arrays["pictures"] / 255.0
    texts = [prompt for _ in range(sampling.num_seeds) for prompt in prompts]
    seeds = [seed for seed in range(sampling.num_seeds) for _ in prompts]
    pictures = (draw(pipeline_with(export), texts, seeds, GUIDANCE, sampling.steps) * 255).round().astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_name("unfinished.npz")
    np.savez_compressed(unfinished, pictures=pictures, asked=asked)
    unfinished.replace(kept)
    return pictures / 255.0


def pipeline_with(export: Path | None) -> StableDiffusionPipeline:
    """Return the base pipeline, or one with a run's export. The export is a whole pipeline, adapters or new tokens."""
    if export is None:
        return load(BASE_MODEL)
    if (export / "model_index.json").exists():
        return load(export)
    pipeline = load(BASE_MODEL)
    if (export / "pytorch_lora_weights.safetensors").exists():
        pipeline.load_lora_weights(export, weight_name="pytorch_lora_weights.safetensors")
    for part in ("unet", "text_encoder"):
        if (export / "peft" / part).is_dir():
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(pipeline.components[part], export / "peft" / part)
            setattr(pipeline, part, adapted.merge_and_unload())
    for path in sorted(export.glob("embeddings/*/learned_embeds.safetensors")):
        pipeline.load_textual_inversion(path)
    return pipeline
