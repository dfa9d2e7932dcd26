"""A run's base model on torch's meta device, from its configs alone."""

from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import nn

from finetune.config.parse.dump import with_options
from finetune.config.train import TrainConfig
from finetune.models import family_named
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.loading.components import find_family
from finetune.models.loading.hub import MIRRORS


class NotHere(Exception):
    """The model's configs are not on this machine. The text says how to get them."""


@dataclass(frozen=True)
class SizedModel:
    """A model without weights."""

    config: TrainConfig
    """With the local folder as the model's source."""
    source: ModelSource
    family: ModelFamily
    components: Components


def read_model(config: TrainConfig) -> SizedModel:
    """Build the model of a config. Raises ValueError where the recipe would refuse it, and NotHere for a Hub id whose
    configs are not in the cache. Nothing is downloaded."""
    config = with_local_source(config)
    source = replace(ModelSource.from_config(config.model, config.loss.prediction_type), is_empty=True)
    family = family_named(find_family(source, config.model.family))
    return SizedModel(config, source, family, on_meta(family, replace(source, as_stored=True)))


def on_meta(family: ModelFamily, source: ModelSource) -> Components:
    """Build the parts without values, frozen and in evaluation mode. So are their buffers."""
    components = family.load(replace(source, is_empty=True))
    for part in (components.denoiser, components.vae, *components.text_encoders):
        nn.Module.to(part.requires_grad_(False).eval(), "meta")
    return components


def with_local_source(config: TrainConfig) -> TrainConfig:
    """Replace a Hub id by its folder in the cache."""
    source = ModelSource.from_config(config.model)
    if source.is_single_file or Path(source.location).exists():
        return config
    try:
        folder = snapshot_download(source.location, revision=source.revision, allow_patterns=[], local_files_only=True)
    except HFValidationError as error:
        raise FileNotFoundError(
            f"model.source: no folder {source.location}, and a Hub id has the form owner/name."
        ) from error
    except LocalEntryNotFoundError as error:
        raise NotHere(
            f"{source.location} is not on this machine. Fetch its configs (some megabytes), then plan again: "
            f"hf download {MIRRORS.get(source.location, source.location)} --include '*.json' --include '*.txt' "
            "--include '*.model'"
        ) from error
    return with_options(config, {"model.source": folder, "model.revision": None})
