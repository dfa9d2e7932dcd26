"""Adapt a Stable Diffusion model to a style or subject with LoRA.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml -m recipes.lora \
        --config recipes/configs/sd15_lora_style.yaml --model.source MODEL --data.folder PICTURES --output.folder OUT

MODEL is a folder in diffusers layout, a Hub id, or a .safetensors file of all parts (with --model.config FOLDER: the
configs and the tokenizer of its base model); PICTURES a prepared folder, a folder with .txt captions, or a Hub dataset
id. OUT receives config.yaml, metrics.jsonl, checkpoints/, previews/, report.html and export/. The same command again
resumes. With --tokens.names "<NAME>" new tokens are learned in the same run, as in recipes.textual_inversion, and
OUT/export/embeddings/ receives them.
"""

import sys
from typing import TYPE_CHECKING

from finetune.config.recipes import LoRATrainConfig
from finetune.launch import Stage, run_recipe, training_stage

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.methods.lora.method import LoRA
    from finetune.methods.pivotal import Pivotal


def stages(config: LoRATrainConfig) -> list[Stage]:
    """Returns the one stage that the config describes."""

    def method(manifest: "Manifest") -> "LoRA | Pivotal":
        from finetune.methods.lora.method import LoRA

        lora = LoRA(config.lora)
        if not config.tokens.names:
            return lora
        from finetune.methods.pivotal import Pivotal
        from finetune.methods.tokens import TextualInversion

        return Pivotal(lora, TextualInversion.of(config.tokens, config.model), config.train.text_encoder)

    def checked(manifest: "Manifest") -> "Manifest":
        from finetune.data.captions.tokens import check_token_captions

        return check_token_captions(manifest, config.tokens, config.data, config.preview)

    return [training_stage(config, method, checked) if config.tokens.names else training_stage(config, method)]


def main() -> None:
    """Runs the recipe with the command line's options."""
    run_recipe(LoRATrainConfig, stages, sys.argv[1:], program="recipes.lora")


if __name__ == "__main__":
    main()
