"""An open run: its processes, folder, and checkpoint to continue from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from finetune.config.train import TrainConfig
from finetune.data.manifest import Manifest
from finetune.files import lock_folder
from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family
from finetune.planning.sharded_options import refuse_unsharded
from finetune.processes.ranks import ranks
from finetune.processes.sharding_request import is_requested, requested_sharding
from finetune.run.device import device_warnings, make_accelerator, refuse_unfit
from finetune.run.resume import find_checkpoint
from finetune.run.saving.write_checkpoint import remove_leftovers
from finetune.run_folder.options import check_output, refuse_separate_folders
from finetune.session import Run


@contextmanager
def open_run(config: TrainConfig, manifest: Manifest) -> Iterator[Run]:
    """Yield the run with a locked folder. Raises ValueError for what a user can mend."""
    started_at = datetime.now(UTC)
    folder = config.output.folder
    check_output(folder)
    accelerator = make_accelerator(config, manifest.fingerprint)
    refuse_unfit(accelerator, config)
    sharding = requested_sharding(os.environ, accelerator.num_processes)
    ranks().moves_together = sharding is not None
    if sharding is not None:
        refuse_unsharded(config, accelerator.mixed_precision)
    lock = lock_folder(folder) if accelerator.is_main_process else None
    refuse_separate_folders(shared_folders(config))
    if accelerator.is_main_process:
        remove_leftovers(folder)
        remove_leftovers(folder / "checkpoints")
        remove_leftovers(folder / "previews")
    warnings = list(manifest.warnings) + device_warnings(accelerator, config)
    if sharding is None and is_requested(os.environ):
        warnings.append("FSDP: got a request for it with one process, which holds the whole model.")
    source = ModelSource.from_config(config.model, config.loss.prediction_type)
    name = find_family(source, config.model.family)
    family = family_named(name)
    if config.model.family is None:
        accelerator.print(f"model.family: {name} ({family.title}), as in {source.location}.")
        config = replace(config, model=replace(config.model, family=name))
    resume = find_checkpoint(config, manifest, accelerator, warnings)
    yield Run(config, manifest, accelerator, source, family, lock, resume, warnings, started_at, sharding)
    if lock:
        lock.close()


def shared_folders(config: TrainConfig) -> dict[str, Path]:
    """Return the folders that all processes need, by option."""
    uses_cache = config.cache.latents or config.cache.text
    cache = {"cache.folder": config.cache.place} if uses_cache else {}
    return {"output.folder": config.output.folder, **cache}
