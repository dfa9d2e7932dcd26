"""Teach a Stable Diffusion model a new word. Some vectors are learned, the model stays as it is.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml -m recipes.textual_inversion \
        --config recipes/configs/sd15_textual_inversion.yaml --model.source MODEL --data.folder IMAGES \
        --output.folder OUT --tokens.names "<NAME>" --data.template "{caption}, in the style of <NAME>"

MODEL, IMAGES and OUT are as for recipes.lora; <NAME> is a word that no caption has otherwise, in lower case. Captions
that contain it need no template; images without captions take --data.captions none --data.template "a drawing in the
style of <NAME>". OUT/export/embeddings/NAME.safetensors is for A1111, Forge and ComfyUI, the folder NAME beside it for
diffusers' load_textual_inversion.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.recipes import TextualInversionTrainConfig
from finetune.launch import run_recipe, training_stage
from finetune.planning.recipe import Recipe, Stage

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.methods.tokens import TextualInversion


def method(config: TextualInversionTrainConfig) -> "TextualInversion":
    """Return the new tokens."""
    from finetune.methods.tokens import TextualInversion

    return TextualInversion.from_config(config.tokens, config.model)


def tune(config: TextualInversionTrainConfig) -> list[Stage]:
    """Return the one stage that the config describes."""

    def run(manifest: "Manifest") -> Path:
        from finetune.data.captions.tokens import check_token_captions

        manifest = check_token_captions(manifest, config.tokens, config.data, config.preview)
        from finetune.train import train

        return train(config, method(config), manifest)

    return [training_stage(config, run)]


RECIPE = Recipe(TextualInversionTrainConfig, tune, method=method)

if __name__ == "__main__":
    run_recipe(RECIPE, sys.argv[1:], "recipes.textual_inversion")
