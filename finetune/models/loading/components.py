"""Read a pipeline's parts from a folder, the Hub or a file. A refusal is one sentence, for all families.
Weights come from safetensors alone, and no code of a checkpoint is run."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL
from diffusers import schedulers as diffusers_schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from finetune.config.parse.presets import presets_of_family
from finetune.config.sections import PICKLED, SINGLE_FILE
from finetune.files import may_read
from finetune.json_text import parse_json
from finetune.models import FAMILIES, family_named
from finetune.models.family import ModelFamily, ModelSource
from finetune.models.interfaces import VAE, Denoiser, Scheduler
from finetune.models.loading.config_values import refuse_scheduler_settings, refuse_vae_settings
from finetune.models.loading.hub import hub_advice, hub_file
from finetune.models.loading.index_parts import refuse_other_class
from finetune.models.loading.marks import corrected_settings, read_marks
from finetune.models.loading.other_sources import folder_contents, refuse_quantised
from finetune.models.loading.other_vae import (
    SCALES,
    base_config,
    in_original_layout,
    naming_option,
    placed,
    refuse_other_latents,
    vae_warnings,
)
from finetune.models.loading.part_files import (
    ADVICE,
    PartFiles,
    files_of,
    part_files,
    part_variant,
    variant_warnings,
    variants,
    with_weights,
)
from finetune.models.loading.single_file import (
    CONFIG_NOTES,
    DENOISERS,
    model_without_weights,
    published_folder,
    single_file_kind,
    weights_from_single_file,
)
from finetune.models.loading.weight_keys import LoadingInfo, refuse_gaps, refuse_other_shards
from finetune.models.stored import stored_dtype, with_float32_buffers
from finetune.out_of_memory import is_out_of_memory

FAULTS = (OSError, ValueError, RuntimeError, SafetensorError, KeyError, IndexError, TypeError, AttributeError)
"""What the libraries raise for the damaged files of a part."""
Loaded = TypeVar("Loaded")


def find_family(source: ModelSource, given: str | None = None) -> str:
    """Return the name of the checkpoint's family. Raises ValueError where there is none, or another was given."""
    if given is not None:
        index_for(family_named(given), source)
        return given
    pipeline = pipeline_index(source).get("_class_name")
    for name in FAMILIES:
        if pipeline in family_named(name).pipelines:
            return name
    raise ValueError(f"model.source: {stated_kind(source)} the pipeline {pipeline}. {other_family(pipeline)}")


def pipeline_index(source: ModelSource) -> dict[str, object]:
    """Return model_index.json, for a single file that of its configs. The pipeline is then the file's own. Raises
    ValueError for a missing source or a damaged index."""
    path = Path(source.location)
    if source.is_single_file:
        return single_file_index(source)
    if path.is_dir():
        return read_index(path / "model_index.json", "model.source", other=local_contents(path))
    if len(path.parts) != 2 or path.is_absolute() or source.location.startswith("."):
        raise FileNotFoundError(f"model.source: no folder {path}, and a Hub id has the form owner/name.")
    listing = files_of(source)
    if not listing.is_cached and "model_index.json" not in listing.names:
        raise ValueError(
            f"model.source: {source.location} has no file model_index.json, expected a model in diffusers layout."
            f"{folder_contents(listing.names, source.location, is_local=False) or ' Choose another model.'}"
        )
    return read_index(hub_file(source, "model_index.json"), "model.source")


def local_contents(folder: Path) -> str:
    """Describe a folder without model_index.json, as the end of a sentence."""
    if (folder / "model_index.json").is_file():
        return ""
    snapshots = folder.glob("snapshots/*/model_index.json")  # of the Hub's cache
    names = {*files_of(ModelSource(str(folder))).names, *(path.relative_to(folder).as_posix() for path in snapshots)}
    return folder_contents(names, str(folder), is_local=True)


def read_index(file: Path, option: str, other: str = "") -> dict[str, object]:
    """Read a model_index.json; errors name the option and end with `other`."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{option}: {file.parent} has no model_index.json; expected a folder in diffusers layout.{other}"
        )
    try:
        index = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{option}: {file} is not valid JSON ({error}).") from error
    if not isinstance(index, dict):
        raise ValueError(f"{option}: {file} is not a JSON object.")
    if not isinstance(index.get("_class_name"), str | None):
        raise ValueError(f"{option}: {file} names the pipeline {index['_class_name']}, expected the name of a class.")
    return index


def single_file_index(source: ModelSource) -> dict[str, object]:
    """Return the model_index.json for a single file. Refuse unknown kinds, and configs that do not belong to it."""
    kind, name = single_file_kind(source), Path(source.location).name
    families = [family_named(known) for known in FAMILIES]
    family = next((family for family in families if kind in family.single_files), None)
    if family is None:
        readable = [f"{other.title}: {', '.join(other.single_files)}" for other in families if other.single_files]
        raise ValueError(
            f"model.source: {name} is a single file of the kind {kind}, expected a folder, or one of those that are "
            f"read ({'; '.join(readable)}). Convert it with diffusers: from_single_file(...) of its pipeline, then "
            "save_pretrained(...)."
        )
    repository = published_folder(kind, source.prediction_type or read_marks(source).prediction_type)
    if source.config is None:
        folder = f"configs/{repository.partition('/')[2]}"
        raise ValueError(
            f"model.config: missing for {name}, a single file of the kind {kind}, which has no configs and no "
            f"tokenizer. Fetch those of its base model once (some megabytes), then give their folder, as "
            f"below.{CONFIG_NOTES.get(kind, '')}\n"
            f"hf download {repository} --include '*.json' --include '*.txt' --local-dir {folder}\n"
            f"--model.source {source.location} --model.config {folder}"
        )
    index = read_index(source.config / "model_index.json", "model.config")
    if index.get("_class_name") not in family.pipelines:
        raise ValueError(
            f"model.config: {source.config} is of the pipeline {index.get('_class_name')}, but {name} is of "
            f"{family.single_files[kind]} ({family.title}). Use a folder such as that of {repository}."
        )
    return index | {"_class_name": family.single_files[kind]}


def index_for(family: ModelFamily, source: ModelSource) -> dict[str, object]:
    """Return model_index.json. Refuse another family's, and a scheduler that this family does not train with."""
    index = pipeline_index(source)
    name = index.get("_class_name")
    if name in family.refused_pipelines:
        raise ValueError(
            f"model.source: model_index.json of {source.location} names the pipeline {name}, expected one of "
            f"{', '.join(family.pipelines)}. {family.refused_pipelines[str(name)]}"
        )
    if name not in family.pipelines:
        raise ValueError(
            f"model.source: {stated_kind(source)} the pipeline {name}, expected one of {', '.join(family.pipelines)} "
            f"({family.title}). {other_family(name)}"
        )
    for part in source.without:
        if part not in family.optional_parts:
            parts = ", ".join(family.optional_parts)
            can = f"can do without {parts} alone" if parts else "needs all parts"
            raise ValueError(f"model.without: got {part}, but {family.title} {can}. Remove it.")
    match index.get("scheduler"):
        case ["diffusers", str(scheduler)] if scheduler_class(scheduler, family.scheduler_option) is not None:
            return index
        case other:
            raise ValueError(
                f"model.source: model_index.json of {source.configs} names the scheduler {other}, expected "
                f'["diffusers", "..."] with a scheduler of diffusers that has the option {family.scheduler_option}.'
            )


def stated_kind(source: ModelSource) -> str:
    """Return the source's stated kind, as a sentence's beginning."""
    if source.is_single_file:
        return f"the single file {Path(source.location).name} belongs to"
    return f"model_index.json of {source.location} names"


def other_family(pipeline: object) -> str:
    """Return the advice for a checkpoint of that pipeline."""
    for name in FAMILIES:
        if pipeline in family_named(name).pipelines:
            presets = presets_of_family(name)
            listed = f"use a preset for it ({', '.join(presets)}), or " if presets else ""
            return f"Its family is {name}: {listed}give --model.family {name} with numbers that suit it."
        if pipeline in family_named(name).refused_pipelines:
            return family_named(name).refused_pipelines[str(pipeline)]
    titles = ", ".join(f"{name} ({family_named(name).title})" for name in FAMILIES)
    return f"No family trains it; these are known: {titles}."


def load_scheduler(family: ModelFamily, source: ModelSource) -> Scheduler:
    """Load the index's scheduler, with the objective of a single file's weights."""
    kind, settings, _ = scheduler_settings(family, source)
    return loaded(lambda: kind.from_config(settings), source, "scheduler")


def scheduler_warnings(family: ModelFamily, source: ModelSource) -> list[str]:
    """Return the warnings about the scheduler of a single file."""
    return scheduler_settings(family, source)[2]


def scheduler_settings(family: ModelFamily, source: ModelSource) -> tuple[type, dict[str, object], list[str]]:
    """Return the scheduler's class, its settings and warnings."""
    _, name = cast("list[str]", index_for(family, source)["scheduler"])
    kind = scheduler_class(name, family.scheduler_option)
    assert kind is not None, "the index was checked"
    root = part_files(source, "scheduler", has_weights=False).root
    settings = loaded(lambda: kind.load_config(str(root), subfolder="scheduler"), source, "scheduler")
    refuse_scheduler_settings(settings, source)
    warnings: list[str] = []
    if source.is_single_file:
        settings, warnings = corrected_settings(settings, source)
    return kind, settings, warnings


def scheduler_class(name: str, option: str) -> type | None:
    """Return diffusers' scheduler class of that name. None without one that has the option."""
    # The module imports its parts when they are used, and lists all of them before.
    value = getattr(diffusers_schedulers, name) if name in dir(diffusers_schedulers) else None
    if not (isinstance(value, type) and issubclass(value, SchedulerMixin)):
        return None
    return value if option in inspect.signature(value).parameters else None


def load_weights(kind: type, source: ModelSource, part: str) -> Any:
    """Load one part on the CPU, in float32 or as configured. Refuse a file with more or fewer weights."""
    if source.is_empty:
        return built_empty(kind, source, part)
    if part == "vae" and source.vae is not None:
        model = load_other_vae(kind, source)
    elif source.is_single_file:
        model = loaded(lambda: weights_from_single_file(kind, source, part), source, part)
    else:
        files = part_files(source, part, has_weights=True)
        refuse_other_class(kind, pipeline_index(source), files.root, part)
        model = weights_from_folder(kind, source, part, files)
    if issubclass(kind, AutoencoderKL):
        refuse_vae_settings(cast("VAE", model).config, source if source.vae is None else ModelSource(source.vae))
    return model


def built_empty(kind: type, source: ModelSource, part: str) -> nn.Module:
    """Build one part from its config. It has the number format that it would be read in."""
    files = part_files(source, part, has_weights=False)
    model = loaded(lambda: model_without_weights(kind, str(files.root), part), source, part)
    if source.as_stored and part in DENOISERS and not source.is_single_file:
        stored = replace(files, variant=part_variant(source, part, files_of(source)))
        model = nn.Module.to(model, loaded(lambda: stored_dtype(stored, part), source, part))
    return model


def load_other_vae(kind: type, source: ModelSource) -> nn.Module:
    """Load the source's other VAE. Raises ValueError where it does not fit this model."""
    with naming_option():
        if in_original_layout(source):
            configs = part_files(source, "vae", has_weights=False).root
            alone = ModelSource(str(source.vae), config=configs)
            return loaded(lambda: weights_from_single_file(kind, alone, "vae"), alone, "vae")
    with placed(source) as place:
        settings = loaded(lambda: kind.load_config(str(place.folder)), place.source, "vae")
        if settings.get("_class_name", kind.__name__) != kind.__name__:
            raise ValueError(f"model.vae: {source.vae} is a {settings['_class_name']}, expected an {kind.__name__}.")
        refuse_other_latents(settings, source)
        model = cast("VAE", weights_from_folder(kind, place.source, place.part, place.files))
    base = base_config(source)
    model.register_to_config(**{name: base[name] for name in SCALES if name in base and name not in settings})
    return model


def weights_from_folder(kind: type, source: ModelSource, part: str, files: PartFiles) -> nn.Module:
    """Return one part of a folder in diffusers layout."""
    refuse_quantised(files.root / part / "config.json", source.location)
    refuse_other_shards(files, source.location, part)
    load: Callable[..., tuple[nn.Module, LoadingInfo]] = kind.from_pretrained
    options: dict[str, object] = {"variant": files.variant, "use_safetensors": True, "torch_dtype": torch.float32}
    if source.as_stored and part in DENOISERS:
        options["torch_dtype"] = loaded(lambda: stored_dtype(files, part), source, part)
    if issubclass(kind, PreTrainedModel):
        options["ignore_mismatched_sizes"] = True  # they are named by `refuse_gaps`; diffusers names them itself
    model, info = loaded(
        lambda: load(str(files.root), subfolder=part, output_loading_info=True, **options), source, part
    )
    refuse_gaps(kind, info, files, source.location, part)
    return model if options["torch_dtype"] == torch.float32 else with_float32_buffers(cast("Denoiser", model))


def load_part(kind: type, source: ModelSource, part: str) -> Any:
    """Load one part of the pipeline without weights. Raises ValueError that names a part that does not load."""
    files = part_files(source, part, has_weights=False)
    return loaded(lambda: kind.from_pretrained(str(files.root), subfolder=part), source, part)


def parts_warnings(source: ModelSource) -> list[str]:
    """Return the warnings about reading the index's parts."""
    return [*variant_warnings(source, named_parts(source)), *vae_warnings(source)]


def named_parts(source: ModelSource) -> list[str]:
    """Return the index's parts that are read from the source itself."""
    entries = pipeline_index(source).items()
    loaded_by = ("diffusers", "transformers")
    parts = [name for name, entry in entries if isinstance(entry, list) and entry and entry[0] in loaded_by]
    left_out = (*source.without, *(() if source.vae is None else ("vae",)))
    return [part for part in parts if part not in left_out]


def weighted_parts(source: ModelSource) -> list[str]:
    """Return those of the parts that have weights."""
    names = files_of(source).names
    return [part for part in named_parts(source) if variants(names, part)]


def loaded(load: Callable[[], Loaded], source: ModelSource, part: str) -> Loaded:
    """Return the result of `load`; errors name the part and the remedy. They are ValueError."""
    try:
        return load()
    except FAULTS as error:
        if is_out_of_memory(error):  # not the part's fault
            raise
        text = hub_advice(error, source, f"{part}{with_weights(source.variant)}. {ADVICE}")
        # A VAE of its own may be in no subfolder.
        reason = f"{part or 'vae'} of {source.location} does not load: {first_line(error)}."
        raise ValueError(text or f"model.source: {reason} {part_advice(source, part)}") from error


def part_advice(source: ModelSource, part: str) -> str:
    """Return the advice where a part of a folder does not load."""
    places = [Path(source.location)] if source.is_single_file else sorted(Path(source.location, part).glob("*"))
    if closed := [path.name for path in places if not may_read(path)]:
        return f"This user may not read {closed[0]} (permission denied). Run as its owner, or change the permissions."
    if source.is_single_file:
        return f"Expected the weights that {Path(source.configs) / part} describes: is it of the same base model?"
    if part.startswith(("scheduler", "tokenizer")):
        return f"Put back the files in {part}/ that were published with the model."
    files = [path.name for path in Path(source.location, part).glob("*")]
    if not any(name.endswith(SINGLE_FILE) for name in files) and any(name.endswith(PICKLED) for name in files):
        return (
            "It has pickled weights alone, which can run code when they are read, expected safetensors. Where you "
            "trust them: DiffusionPipeline.from_pretrained(FOLDER, use_safetensors=False).save_pretrained(NEW)."
        )
    return "Expected safetensors weights and their config.json in diffusers layout."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without its full stop. Where shapes differ, diffusers adds the
    subfolder and advice to overwrite weights; both are left out."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(" If you want to instead")[0]
    return re.sub(r"^Cannot load \S* because ", "", line).rstrip(".")
