"""Fine-tune a denoiser: all weights, or those that options choose.

    accelerate launch --config_file accelerate_configs/multi_gpu.yaml -m recipes.full \
        --config recipes/configs/sd15_full.yaml --model.source MODEL --data.folder IMAGES --output.folder OUT

full.train and full.freeze choose weights. MODEL, IMAGES and OUT are as for recipes.lora; OUT/export is a whole pipeline
in diffusers layout.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.recipes import FullTrainConfig
from finetune.launch import run_recipe, training_stage
from finetune.planning.recipe import Recipe, Stage

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.methods.full import Full


def method(config: FullTrainConfig) -> "Full":
    """Return what trains."""
    from finetune.methods.full import Full

    return Full(config.full, config.train.text_encoder)


def tune(config: FullTrainConfig) -> list[Stage]:
    """Return the one stage that the config describes."""

    def run(manifest: "Manifest") -> Path:
        from finetune.train import train

        return train(config, method(config), manifest)

    return [training_stage(config, run)]


RECIPE = Recipe(FullTrainConfig, tune, method=method)

if __name__ == "__main__":
    run_recipe(RECIPE, sys.argv[1:], "recipes.full")
