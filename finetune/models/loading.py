"""Reads the parts of a pipeline from a folder or the Hub, for all families; every refusal is one sentence.

Weights come from safetensors alone, and no code of a checkpoint is run.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers import schedulers as diffusers_schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import SafetensorError

from finetune.models import FAMILIES, family_named
from finetune.models.base import ModelFamily, ModelSource


def pipeline_index(source: ModelSource) -> dict[str, Any]:
    """Returns model_index.json; raises one clear sentence for a missing source, a single file or a damaged index."""
    path = Path(source.location)
    if path.is_file():
        raise ValueError(
            f"model.source: {path} is a single file, expected a folder in diffusers layout. Convert it with diffusers' "
            "StableDiffusionPipeline.from_single_file(...).save_pretrained(...)."
        )
    index: Any
    if path.is_dir():
        index_file = path / "model_index.json"
        if not index_file.is_file():
            raise FileNotFoundError(
                f"model.source: {path} has no model_index.json; expected a folder in diffusers layout."
            )
        try:
            index = json.loads(index_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"model.source: {index_file} is no JSON: {error}.") from error
    elif len(path.parts) != 2 or path.is_absolute() or source.location.startswith("."):
        raise FileNotFoundError(f"model.source: no folder {path}, and a Hub id has the form owner/name.")
    else:
        try:
            index = DiffusionPipeline.load_config(source.location, revision=source.revision)
        except OSError as error:
            raise ValueError(
                f"model.source: {source.location} is no folder here and does not come from the Hub: "
                f"{first_line(error)} Check the name, log in with `hf auth login` if the model is gated, or give a "
                "local folder."
            ) from error
    if not isinstance(index, dict):
        raise ValueError(f"model.source: model_index.json of {source.location} is no JSON object.")
    return index


def index_for(family: ModelFamily, source: ModelSource) -> dict[str, Any]:
    """Returns model_index.json; raises ValueError where it is another family's, or names a scheduler that the family
    does not train with."""
    index = pipeline_index(source)
    name = index.get("_class_name")
    if name not in family.pipelines:
        raise ValueError(
            f"model.source: model_index.json of {source.location} names the pipeline {name}, expected one of "
            f"{', '.join(family.pipelines)} ({family.title}). {other_family(name)}"
        )
    match index.get("scheduler"):
        case ["diffusers", str(scheduler)] if scheduler_class(scheduler, family.scheduler_option) is not None:
            return index
        case other:
            raise ValueError(
                f"model.source: model_index.json of {source.location} names the scheduler {other}, expected "
                f'["diffusers", "..."] with a scheduler of diffusers that has the option {family.scheduler_option}.'
            )


def other_family(pipeline: Any) -> str:
    """Returns what to do with a checkpoint of that pipeline instead."""
    for name in FAMILIES:
        if pipeline in family_named(name).pipelines:
            return f"Give --model.family {name}."
    return f"No family trains it; these are known: {', '.join(FAMILIES)}."


def load_scheduler(family: ModelFamily, source: ModelSource) -> Any:
    """Returns the scheduler that the index names."""
    _, name = index_for(family, source)["scheduler"]
    return load_part(scheduler_class(name, family.scheduler_option), source, "scheduler")


def scheduler_class(name: str, option: str) -> Any:
    """Returns diffusers' scheduler class of that name, None where there is none or it is made without the option."""
    # The module imports its parts when they are asked for, and lists all of them before.
    value = getattr(diffusers_schedulers, name) if name in dir(diffusers_schedulers) else None
    if not (isinstance(value, type) and issubclass(value, SchedulerMixin)):
        return None
    return value if option in inspect.signature(value).parameters else None


def load_weights(kind: Any, source: ModelSource, part: str) -> Any:
    """Returns one part of the pipeline with its weights, in float32 on the CPU."""
    return load_part(
        kind, source, part, {"variant": source.variant, "use_safetensors": True, "torch_dtype": torch.float32}
    )


def load_part(kind: Any, source: ModelSource, part: str, options: dict[str, Any] | None = None) -> Any:
    """Returns one part of the pipeline; raises ValueError that names it where it does not load."""
    try:
        return kind.from_pretrained(source.location, subfolder=part, revision=source.revision, **(options or {}))
    except (OSError, ValueError, RuntimeError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"model.source: {part} of {source.location} does not load: {first_line(error)} Expected safetensors "
            "weights and their config.json in diffusers layout."
        ) from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
