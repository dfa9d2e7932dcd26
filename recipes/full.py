"""Fine-tune all weights of a Stable Diffusion model's U-Net.

    accelerate launch --config_file accelerate_configs/multi_gpu.yaml -m recipes.full \
        --config recipes/configs/sd15_full.yaml --model.source MODEL --data.folder PICTURES --output.folder OUT

MODEL, PICTURES and OUT are as for recipes.lora; OUT/export is a whole pipeline in diffusers layout.
"""

import sys
from typing import TYPE_CHECKING

from finetune.config import FullTrainConfig
from finetune.launch import run_recipe

if TYPE_CHECKING:
    from finetune.methods import Full


def method(config: FullTrainConfig) -> "Full":
    """Returns the method; it has no options of its own."""
    from finetune.methods import Full

    return Full()


def main() -> None:
    """Runs the recipe with the command line's options."""
    run_recipe(FullTrainConfig, method, sys.argv[1:], program="recipes.full")


if __name__ == "__main__":
    main()
