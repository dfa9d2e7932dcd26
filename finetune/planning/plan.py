"""`finetune plan`: what a recipe would do, before anything is trained; torch-free."""

import importlib
import importlib.util
import pkgutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from finetune.config.checks import prompts_of
from finetune.config.parse.command_line import flat_types, given_texts, required_keys
from finetune.config.parse.dump import dump
from finetune.config.parse.presets import find_preset
from finetune.config.parse.recipe_options import parse_recipe
from finetune.config.train import TrainConfig
from finetune.data.folders import count_lines, folder_counts
from finetune.data.manifest import Manifest
from finetune.data.sizes import bucket_sizes, nearest_size
from finetune.models import refuse_unknown_family
from finetune.planning.proposal import read_facts, with_kept_numbers, with_proposals
from finetune.planning.recipe import Recipe
from finetune.plurals import plural
from finetune.prompt_syntax import prompt_warnings
from finetune.run_folder.options import held_out_indices

STAND_INS = {"model.source": "MODEL", "output.folder": "OUT"}
"""Options that the plan does not need, so its command may omit them."""


def print_plan(recipe: str, arguments: Sequence[str], num_processes: int) -> None:
    """Print the numbers with their reasons, the buckets and the passes. Raises ValueError or OSError where the recipe's
    command would, for all that it checks before it loads a model."""
    program, chosen = find_recipe(recipe)
    texts, _ = given_texts(arguments, flat_types(chosen.config), find_preset)
    missing = [key for key in required_keys(chosen.config) if key in STAND_INS and key not in texts]
    filled = [*arguments, *(text for key in missing for text in (f"--{key}", STAND_INS[key]))]
    config, given = parse_recipe(chosen.config, filled, program, print)
    refuse_unknown_family(config.model.family)
    config, kept = with_kept_numbers(config, given)
    manifest = chosen.manifest(config)
    config, lines = with_proposals(config, given, kept, manifest, num_processes)
    warnings = [f"warning: {text}" for text in (*manifest.warnings, *prompt_warnings(prompts_of(config)))]
    lines += [*warnings, *chosen.planned(config, manifest), *planned(config, manifest, num_processes)]
    print(*lines, "Nothing was trained.", sep="\n")


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


def planned(config: TrainConfig, manifest: Manifest, num_processes: int) -> Iterator[str]:
    """Yield the lines that depend only on config and images."""
    facts = read_facts(config, manifest, num_processes)
    own = facts.global_batch_size * facts.own_share
    seen = config.train.steps * own
    yield (
        f"{plural(config.train.steps, 'step')} of {plural(facts.global_batch_size, 'image')} (processes {num_processes}"
        f" x batch {config.train.batch_size} x accumulation {config.train.accumulation}): {seen:,.0f} of the folder's "
        f"images seen, {seen / facts.entries_per_pass:,.1f} passes of {facts.entries_per_pass / own:,.1f} steps."
    )
    held_out = held_out_indices(manifest.records, config.validation)
    yield from count_lines(folder_counts(manifest, held_out))
    step, max_aspect = config.data.bucket_step, config.data.max_aspect
    sides = {record.resolution or config.data.resolution for record in manifest.records}
    sizes = {side: bucket_sizes(side, step, max_aspect) for side in sides}
    buckets: Counter[tuple[int, int]] = Counter(
        nearest_size(record.width, record.height, sizes[record.resolution or config.data.resolution])
        for index, record in enumerate(manifest.records)
        if index not in held_out
    )
    for (width, height), num in sorted(buckets.items()):
        small = " (fewer than a step takes)" if num < facts.global_batch_size else ""
        yield f"  bucket {width}x{height}: {plural(num, 'image')}{small}"
    due = {
        "checkpoint": config.checkpoint.every,
        "validation": config.validation.every if held_out else 0,
        "preview": config.preview.every if config.preview.prompts else 0,
    }
    texts = [f"{name}s every {plural(every, 'step')}" for name, every in due.items() if every]
    yield f"{'; '.join(texts)}."
    yield "All options, as OUT/config.yaml would hold them:"
    yield textwrap.indent(dump(config), "  ").rstrip()
