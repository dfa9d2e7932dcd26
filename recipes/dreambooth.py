"""Teach a Stable Diffusion model your subject from a few images. The method is DreamBooth (arXiv 2208.12242).

    accelerate launch --config_file accelerate_configs/single_gpu.yaml -m recipes.dreambooth \
        --config recipes/configs/sd15_dreambooth_lora.yaml --model.source MODEL --data.folder IMAGES \
        --instance.prompt "a photo of sks dog" --prior.prompt "a photo of a dog" --output.folder OUT

IMAGES holds three to thirty images of the subject; captions are not needed. `finetune doctor tokens --model.source
MODEL` proposes rare words for the place of sks. Before training, all processes together make class images with the
base model, once: they stay in the cache. --prior.kind prediction needs none, --method full tunes all weights. The
same command again continues, with the class images too.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.dreambooth import DreamBoothTrainConfig
from finetune.launch import run_recipe, say, training_stage
from finetune.planning.recipe import Captions, Recipe, Stage
from finetune.plurals import plural
from finetune.run_folder.options import held_out_indices, refuse_separate_folders

if TYPE_CHECKING:
    from finetune.data.kept_files import KeptFiles
    from finetune.data.manifest import Manifest
    from finetune.methods.base import TuningMethod
    from finetune.tasks.base import MakeTask


def method(config: DreamBoothTrainConfig) -> "TuningMethod":
    """Return adapters, or all weights."""
    from finetune.methods.full import Full
    from finetune.methods.lora.method import LoRA

    if config.method == "lora":
        return LoRA(config.lora, config.train.text_encoder)
    return Full(text_encoder=config.train.text_encoder)


def tune(config: DreamBoothTrainConfig) -> list[Stage]:
    """Return the config's one stage, with its class images."""

    def run(manifest: "Manifest") -> Path:
        from finetune.tasks.denoising import denoising
        from finetune.tasks.preservation import MakePreserving
        from finetune.train import train

        prior = config.prior
        task: MakeTask = denoising
        if prior.kind == "prediction" and prior.prompt is not None:
            task = MakePreserving(prior.prompt, prior.weight, adapters=config.method == "lora")
        return train(config, method(config), training_images(config, manifest), task)

    return [training_stage(config, run)]


def training_images(config: DreamBoothTrainConfig, manifest: "Manifest") -> "Manifest":
    """Return the subject's images, and the configured class images, with their prompts."""
    from finetune.data.class_images import balance_text, captioned, with_class_prompt
    from finetune.models import family_named
    from finetune.models.family import ModelSource
    from finetune.models.loading.components import find_family
    from finetune.models.text.rare_tokens import common_words_warning

    source = ModelSource.from_config(config.model, config.loss.prediction_type)
    family = family_named(find_family(source, config.model.family))
    if family.is_inpainting(source) and config.prior.kind == "pictures" and draws_class_images(config):
        raise ValueError(
            f"prior.kind: got {config.prior.kind}, but {config.model.source} fills holes in images and does not draw "
            "whole ones. Use class images of your own with --prior.folder, or --prior.kind prediction."
        )
    if config.instance.prompt is not None:
        warning = common_words_warning(family.tokenizers(source), config.instance.prompt, config.model.source)
        warnings = (*manifest.warnings, *([warning] if warning else []))
        manifest = replace(captioned(manifest, config.instance.prompt), warnings=warnings)
    if config.prior.kind != "pictures":
        return manifest
    if has_class_folders(config):
        both = with_class_prompt(manifest, config.prior.prompt, config.prior.weight)
        say(balance_text(both.records))
        return both
    if config.prior.folder is not None:
        of_class = class_images_in(config.prior.folder, config, manifest.kept)
    else:
        from finetune.data.manifest import read_manifest
        from finetune.run.class_images import make_class_images
        from finetune.run.device import make_accelerator

        cache, size = config.cache.place, config.data.resolution
        accelerator = make_accelerator(config, manifest.fingerprint)
        refuse_separate_folders({"cache.folder": cache})
        made = make_class_images(family, source, config.prior, cache, size, accelerator, offload=config.model.offload)
        of_class = read_manifest(str(made), captions="none", kept=manifest.kept)
        of_class = replace(of_class, records=of_class.records[: config.prior.num_pictures])
    both, balance = balanced(config, manifest, of_class)
    say(balance)
    return both


def has_class_folders(config: DreamBoothTrainConfig) -> bool:
    """Tell if class images are among data.folders."""
    return any(each.is_regularisation for each in config.data.folders)


def draws_class_images(config: DreamBoothTrainConfig) -> bool:
    """Tell if the base model draws the class images."""
    return config.prior.folder is None and not has_class_folders(config)


def balanced(config: DreamBoothTrainConfig, manifest: "Manifest", of_class: "Manifest") -> "tuple[Manifest, str]":
    """Join images of the subject and its class. Also return how they are balanced."""
    from finetune.data.class_images import balance_text, with_class_images

    held_out, prior = held_out_indices(manifest.records, config.validation), config.prior
    both = with_class_images(manifest, of_class, prompt=prior.prompt, weight=prior.weight, held_out=held_out)
    return both, balance_text(both.records)


def also_planned(config: DreamBoothTrainConfig, manifest: "Manifest") -> list[str]:
    """Describe class images for `finetune plan`. Raises ValueError where they cannot be used."""
    from finetune.data.class_images import balance_text, captioned

    if config.prior.kind != "pictures":
        return []
    if has_class_folders(config):
        return [balance_text(manifest.records)]
    if config.prior.folder is None:
        return [f"{plural(config.prior.num_pictures, 'class image')} to draw before training, where not cached yet."]
    of_class = class_images_in(config.prior.folder, config)
    manifest = manifest if config.instance.prompt is None else captioned(manifest, config.instance.prompt)
    return [*(f"warning: {text}" for text in of_class.warnings), balanced(config, manifest, of_class)[1]]


def class_images_in(folder: str, config: DreamBoothTrainConfig, kept: "KeptFiles | None" = None) -> "Manifest":
    """Return the class images of prior.folder. With prior.captions they keep their captions."""
    from finetune.config.mask import NO_MASKS
    from finetune.data.manifest import configured_manifest

    data = replace(config.data, folder=folder, folders=(), trigger=None)
    try:
        return configured_manifest(data, NO_MASKS, class_captions(config), "prior.captions is false", kept)
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace("data.folder:", "prior.folder:")) from error


def captions(config: DreamBoothTrainConfig) -> Captions:
    """Return the source of the subject's captions. None are read if all get the same prompt."""
    return config.data.captions if config.instance.captions else "none"


def unread(config: DreamBoothTrainConfig) -> str:
    """Say why captions beside the subject's images are not read."""
    return "data.captions is none" if config.instance.captions else "instance.captions is false"


def class_captions(config: DreamBoothTrainConfig) -> Captions:
    """Return the source of the captions of class images in data.folders."""
    return "listed" if config.prior.captions else "none"


RECIPE = Recipe(DreamBoothTrainConfig, tune, captions, unread, class_captions, method, also_planned)

if __name__ == "__main__":
    run_recipe(RECIPE, sys.argv[1:], "recipes.dreambooth")
