"""Teach a Stable Diffusion model a new word for a style or subject: some vectors are learned, the model stays as it is.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml -m recipes.textual_inversion \
        --config recipes/configs/sd15_textual_inversion.yaml --model.source MODEL --data.folder PICTURES \
        --output.folder OUT --tokens.names "<NAME>" --data.template "{caption}, in the style of <NAME>"

MODEL, PICTURES and OUT are as for recipes.lora; <NAME> is a word that no caption has otherwise, in lower case. Captions
that contain it need no template; pictures without captions take --data.captions none --data.template "a drawing in the
style of <NAME>". OUT/export/embeddings/NAME.safetensors is for A1111, Forge and ComfyUI, the folder NAME beside it for
diffusers' load_textual_inversion.
"""

import sys
from typing import TYPE_CHECKING

from finetune.config.recipes import TextualInversionTrainConfig
from finetune.launch import Stage, run_recipe, training_stage

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest
    from finetune.methods.tokens import TextualInversion


def stages(config: TextualInversionTrainConfig) -> list[Stage]:
    """Returns the one stage that the config describes."""

    def checked(manifest: "Manifest") -> "Manifest":
        from finetune.data.captions.tokens import check_token_captions

        return check_token_captions(manifest, config.tokens, config.data, config.preview)

    def method(manifest: "Manifest") -> "TextualInversion":
        from finetune.methods.tokens import TextualInversion

        return TextualInversion.of(config.tokens, config.model)

    return [training_stage(config, method, checked)]


def main() -> None:
    """Runs the recipe with the command line's options."""
    run_recipe(TextualInversionTrainConfig, stages, sys.argv[1:], program="recipes.textual_inversion")


if __name__ == "__main__":
    main()
