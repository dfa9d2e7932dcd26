"""The plan of a run from its options and images; torch-free. `finetune plan` adds what its model needs."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune.config.checks import prompts_of
from finetune.config.parse.command_line import flat_types, given_texts, required_keys
from finetune.config.parse.presets import find_preset
from finetune.config.parse.recipe_options import parse_recipe
from finetune.config.train import TrainConfig
from finetune.data.folders import count_lines, folder_counts
from finetune.data.manifest import Manifest, Record
from finetune.data.sizes import bucket_sizes, nearest_size
from finetune.models import refuse_unknown_family
from finetune.planning.advice import DatasetFacts
from finetune.planning.epochs import with_steps
from finetune.planning.proposal import read_facts, with_kept_numbers, with_proposals
from finetune.planning.recipe import Recipe
from finetune.plurals import plural
from finetune.prompt_syntax import prompt_warnings
from finetune.run_folder.options import held_out_indices

STAND_INS = {"model.source": "MODEL", "output.folder": "OUT"}
"""Options that the plan does not need, so its command may omit them."""


@dataclass(frozen=True)
class PlannedBucket:
    """The effect of a training size on its images."""

    width: int
    height: int
    images: int
    crop_loss: float
    """Mean share of the area that is cut away."""
    upscaled: int


@dataclass(frozen=True)
class Plan:
    """Facts of a run that depend on config and images alone."""

    recipe: Recipe[TrainConfig]
    config: TrainConfig
    manifest: Manifest
    num_processes: int
    facts: DatasetFacts
    buckets: tuple[PlannedBucket, ...]
    notes: tuple[str, ...]
    """What the recipe's command would print of options, numbers and class images."""
    warnings: tuple[str, ...]
    names_model: bool
    """False where the command omits the model."""

    @property
    def images_seen(self) -> float:
        """Images of data.folder in all steps."""
        return self.config.train.steps * self.facts.global_batch_size * self.facts.own_share

    @property
    def passes(self) -> float:
        """How often each image is seen, with its repeats."""
        return self.images_seen / self.facts.entries_per_pass


def read_plan(recipe: str, arguments: Sequence[str], num_processes: int) -> Plan:
    """Read options and images. Raises ValueError or OSError where the recipe's command would, for all that it checks
    before it loads a model."""
    program, chosen = find_recipe(recipe)
    texts, _ = given_texts(arguments, flat_types(chosen.config), find_preset)
    missing = [key for key in required_keys(chosen.config) if key in STAND_INS and key not in texts]
    filled = [*arguments, *(text for key in missing for text in (f"--{key}", STAND_INS[key]))]
    notes: list[str] = []
    config, given = parse_recipe(chosen.config, filled, program, notes.append)
    refuse_unknown_family(config.model.family)
    config, kept = with_kept_numbers(config, given)
    manifest = chosen.manifest(config)
    config = with_steps(config, given, lambda: manifest, num_processes, filled, notes.append)
    config, lines = with_proposals(config, given, kept, manifest, num_processes)
    warnings = (*manifest.warnings, *prompt_warnings(prompts_of(config)))
    return Plan(
        chosen,
        config,
        manifest,
        num_processes,
        read_facts(config, manifest, num_processes),
        tuple(planned_buckets(config, manifest)),
        (*notes, *lines, *chosen.planned(config, manifest)),
        warnings,
        "model.source" not in missing,
    )


def find_recipe(name: str) -> tuple[str, Recipe[TrainConfig]]:
    """Return a recipe with its module's name. `name` is that or, for recipes of the package, its last part."""
    for module in (f"recipes.{name}", name):
        try:
            found = vars(importlib.import_module(module)).get("RECIPE")
        except (ModuleNotFoundError, ValueError):
            continue
        if isinstance(found, Recipe):
            return module, found
    package = importlib.util.find_spec("recipes")
    folders = (package.submodule_search_locations or []) if package else []
    known = ", ".join(sorted(f"recipes.{module.name}" for module in pkgutil.iter_modules(folders) if not module.ispkg))
    raise ValueError(f"plan: got {name}, expected the module of a recipe: {known}.")


def planned_buckets(config: TrainConfig, manifest: Manifest) -> Iterator[PlannedBucket]:
    """Yield the sizes that images are trained at."""
    from finetune.data.images.decode import cover_scale, crop_loss  # with numpy and Pillow, as the manifest

    held_out = held_out_indices(manifest.records, config.validation)
    step, max_aspect = config.data.bucket_step, config.data.max_aspect
    sides = {record.resolution or config.data.resolution for record in manifest.records}
    sizes = {side: bucket_sizes(side, step, max_aspect) for side in sides}
    found: dict[tuple[int, int], list[Record]] = {}
    for index, record in enumerate(manifest.records):
        if index not in held_out:
            fitting = sizes[record.resolution or config.data.resolution]
            found.setdefault(nearest_size(record.width, record.height, fitting), []).append(record)
    for size, records in sorted(found.items()):
        losses = [crop_loss(record.width, record.height, *size) for record in records]
        upscaled = sum(cover_scale(record.width, record.height, *size) > 1 for record in records)
        yield PlannedBucket(*size, len(records), sum(losses) / len(losses), upscaled)


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield the notes and warnings. Lines on the steps and on each training size follow."""
    config, facts = plan.config, plan.facts
    yield from plan.notes
    yield from (f"warning: {text}" for text in plan.warnings)
    own = facts.global_batch_size * facts.own_share
    yield (
        f"{plural(config.train.steps, 'step')} of {plural(facts.global_batch_size, 'image')} (processes "
        f"{plan.num_processes} x batch {config.train.batch_size} x accumulation {config.train.accumulation}): "
        f"{plan.images_seen:,.0f} of the folder's images seen, {plan.passes:,.1f} passes of "
        f"{facts.entries_per_pass / own:,.1f} steps; {plural(facts.num_held_out, 'image')} held out."
    )
    held_out = held_out_indices(plan.manifest.records, config.validation)
    yield from count_lines(folder_counts(plan.manifest, held_out))
    for bucket in plan.buckets:
        small = " (fewer than a step takes)" if bucket.images < facts.global_batch_size else ""
        yield (
            f"  bucket {bucket.width}x{bucket.height}: {plural(bucket.images, 'image')}{small}, {bucket.crop_loss:.1%} "
            f"of the area cropped, {bucket.upscaled} upscaled"
        )
    due = {
        "checkpoint": config.checkpoint.every,
        "validation": config.validation.every if facts.num_held_out else 0,
        "preview": config.preview.every if config.preview.prompts else 0,
    }
    texts = [f"{name}s every {plural(every, 'step')}" for name, every in due.items() if every]
    yield f"{'; '.join(texts)}."
