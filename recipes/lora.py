"""Adapt a Stable Diffusion model to a style or subject with LoRA.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml -m recipes.lora \
        --config recipes/configs/sd15_lora_style.yaml --model.source MODEL --data.folder PICTURES --output.folder OUT

MODEL is a folder in diffusers layout or a Hub id; PICTURES a prepared folder, a folder with .txt captions, or a Hub
dataset id. OUT receives config.yaml, metrics.jsonl, checkpoints/, previews/, report.html and export/. The same command
again resumes.
"""

import sys
from typing import TYPE_CHECKING

from finetune.config_methods import LoRATrainConfig
from finetune.launch import Stage, run_recipe, training_stage

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.methods.lora import LoRA


def stages(config: LoRATrainConfig) -> list[Stage]:
    """Returns the one stage that the config describes."""

    def method(manifest: "Manifest") -> "LoRA":
        from finetune.methods.lora import LoRA

        return LoRA(config.lora)

    return [training_stage(config, method)]


def main() -> None:
    """Runs the recipe with the command line's options."""
    run_recipe(LoRATrainConfig, stages, sys.argv[1:], program="recipes.lora")


if __name__ == "__main__":
    main()
