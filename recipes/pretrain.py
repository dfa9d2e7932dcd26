"""Train a small latent diffusion model from scratch on your own images.

    accelerate launch --config_file accelerate_configs/single_gpu.yaml -m recipes.pretrain \
        --config recipes/configs/pretrain_icons.yaml --data.folder IMAGES --output.folder OUT

OUT/export is a pipeline in Stable Diffusion's format with tokenizer, autoencoder and denoiser; OUT/tokenizer and
OUT/autoencoder have the results of the first two stages. The same command again resumes the stage it was stopped in. A
stage by itself: --stage autoencoder --model.source OUT/tokenizer/export. Images without captions: --data.captions none;
classes as folders: --data.captions folder.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.config.parse.dump import dump
from finetune.config.pretrain import PretrainConfig, autoencoder_stage
from finetune.files import write_atomically
from finetune.launch import run_recipe, say, training_stage
from finetune.planning.recipe import Recipe, Stage
from finetune.plurals import first_few
from finetune.processes.ranks import ranks
from finetune.run_folder.finished import STATUS_FILE, export_damage, read_status, write_status
from finetune.run_folder.options import changed_options

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest


def tune(config: PretrainConfig) -> list[Stage]:
    """Return the config's stages, each with the folder that it writes."""
    if config.stage == "tokenizer":
        return [new_model_stage(config, config.output.folder)]
    if config.stage == "autoencoder":
        return [autoencoder_training(config)]
    if config.stage == "denoiser":
        return [denoiser_training(config)]
    out = config.output.folder
    first = replace(
        config,
        stage="autoencoder",
        model=replace(config.model, source=str(out / "tokenizer" / "export")),
        output=replace(config.output, folder=out / "autoencoder"),
    )
    second = replace(config, stage="denoiser", model=replace(config.model, source=str(out / "autoencoder" / "export")))
    return [new_model_stage(config, out / "tokenizer"), autoencoder_training(first), denoiser_training(second)]


def new_model_stage(config: PretrainConfig, folder: Path) -> Stage:
    """Return the first stage: a learned tokenizer and random weights in FOLDER/export."""
    target, written = folder / "export", folder / "config.yaml"

    def finished() -> str | None:
        if not (target / "model_index.json").exists():
            return None
        changed = [text for text in changed_options(config, written) if text.startswith(("architecture.", "seed "))]
        if changed:
            raise ValueError(
                f"output.folder: {folder} has a model that was made with other options ({', '.join(changed)}). "
                "Choose another output.folder."
            )
        try:
            damage = export_damage(folder, (read_status(folder / STATUS_FILE) or {}).get("files", {}))
        except ValueError:
            damage = [f"{STATUS_FILE}, which lists its checksums, is damaged"]
        if damage:
            raise ValueError(
                f"output.folder: the new model in {target} is not what was written ({first_few(damage)}). Delete "
                f"{target}; the same command makes the same model again."
            )
        return f"The tokenizer and the untrained model are in {target}."

    def run(manifest: "Manifest") -> None:
        from finetune.models.scratch import save_new_pipeline
        from finetune.run.device import make_accelerator

        accelerator = make_accelerator(config, manifest.fingerprint)
        if accelerator.is_main_process:
            captions = [caption for record in manifest.records for caption in record.captions]
            write_atomically(written, dump(config))
            pipeline = save_new_pipeline(config.architecture, captions, config.data.resolution, config.seed, target)
            write_status(folder, 0, [target])
            say(f"New model in {target}: {pipeline}")
        ranks().exchange()

    return Stage(folder, finished, run)


def autoencoder_training(config: PretrainConfig) -> Stage:
    """Return the stage that trains the VAE."""
    own = autoencoder_stage(config)

    def run(manifest: "Manifest") -> Path:
        from finetune.methods.autoencoder import Autoencoder
        from finetune.tasks.reconstruction import MakeReconstruction
        from finetune.train import train

        method, task = Autoencoder(manifest, config.data), MakeReconstruction(config.autoencoder)
        return train(own, method, manifest, task, from_scratch=True)

    return training_stage(own, run)


def denoiser_training(config: PretrainConfig) -> Stage:
    """Return the last stage: all weights of U-Net and text encoder."""

    def run(manifest: "Manifest") -> Path:
        from finetune.methods.full import Full
        from finetune.train import train

        return train(config, Full(text_encoder=config.train.text_encoder), manifest, from_scratch=True)

    return training_stage(config, run)


RECIPE = Recipe(PretrainConfig, tune)

if __name__ == "__main__":
    run_recipe(RECIPE, sys.argv[1:], "recipes.pretrain")
