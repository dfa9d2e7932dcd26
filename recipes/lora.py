"""Adapt a Stable Diffusion model to a style or subject with LoRA.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml -m recipes.lora \
        --config recipes/configs/sd15_lora_style.yaml --model.source MODEL --data.folder IMAGES --output.folder OUT

MODEL is a folder in diffusers layout, a Hub id, or a .safetensors file of all parts (with --model.config FOLDER: the
configs and the tokenizer of its base model); IMAGES a prepared folder, a folder with .txt captions, or a Hub dataset
id. OUT receives config.yaml, metrics.jsonl, checkpoints/, previews/, report.html and export/. The same command again
resumes. With --tokens.names "<NAME>" new tokens are learned in the same run, as in recipes.textual_inversion, and
OUT/export/embeddings/ receives them.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.recipes import LoRATrainConfig
from finetune.launch import run_recipe, training_stage
from finetune.planning.recipe import Recipe, Stage

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.methods.base import TuningMethod


def method(config: LoRATrainConfig) -> "TuningMethod":
    """Return the adapters, with new tokens where the config names any."""
    from finetune.methods.lora.method import LoRA

    lora = LoRA(config.lora, config.train.text_encoder)
    if not config.tokens.names:
        return lora
    from finetune.methods.pivotal import Pivotal
    from finetune.methods.tokens import TextualInversion

    return Pivotal(lora, TextualInversion.from_config(config.tokens, config.model))


def tune(config: LoRATrainConfig) -> list[Stage]:
    """Return the one stage that the config describes."""

    def run(manifest: "Manifest") -> Path:
        if config.tokens.names:
            from finetune.data.captions.tokens import check_token_captions

            manifest = check_token_captions(manifest, config.tokens, config.data, config.preview)
        from finetune.train import train

        return train(config, method(config), manifest)

    return [training_stage(config, run)]


RECIPE = Recipe(LoRATrainConfig, tune, method=method)

if __name__ == "__main__":
    run_recipe(RECIPE, sys.argv[1:], "recipes.lora")
