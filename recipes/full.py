"""Fine-tune all weights of a Stable Diffusion model's U-Net, or those that full.train and full.freeze choose.

    accelerate launch --config_file accelerate_configs/multi_gpu.yaml -m recipes.full \
        --config recipes/configs/sd15_full.yaml --model.source MODEL --data.folder PICTURES --output.folder OUT

MODEL, PICTURES and OUT are as for recipes.lora; OUT/export is a whole pipeline in diffusers layout.
"""

import sys
from typing import TYPE_CHECKING

from finetune.config.recipes import FullTrainConfig
from finetune.launch import Stage, run_recipe, training_stage

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.methods.full import Full


def stages(config: FullTrainConfig) -> list[Stage]:
    """Returns the one stage that the config describes."""

    def method(manifest: "Manifest") -> "Full":
        from finetune.methods.full import Full

        return Full(config.full)

    return [training_stage(config, method)]


def main() -> None:
    """Runs the recipe with the command line's options."""
    run_recipe(FullTrainConfig, stages, sys.argv[1:], program="recipes.full")


if __name__ == "__main__":
    main()
