"""Numbers of a run: given, else kept from it, else proposed; torch-free."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from finetune.config.facts import Mark, marked
from finetune.config.parse.dump import as_flat, read_options, with_options
from finetune.config.recipes import AdaptConfig
from finetune.config.train import TrainConfig
from finetune.planning.advice import DatasetFacts, Number, doubts, own_share, propose
from finetune.run_folder.options import held_out_indices

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest

Config = TypeVar("Config", bound=TrainConfig)


def with_kept_numbers(config: Config, given: Collection[str]) -> tuple[Config, frozenset[str]]:
    """Add numbers of the run to continue; also return their names. Given numbers stay; a new run keeps none. So the
    same command continues with the same numbers after images were added or the number of processes changed."""
    if not isinstance(config, AdaptConfig) or config.goal is None:
        return config, frozenset()
    saved, wanted = continued_config(config), [key for key in marked(type(config), Mark.PROPOSED) if key not in given]
    kept = {} if saved is None else read_options(saved, type(config), wanted)
    return with_options(config, kept), frozenset(kept)


def continued_config(config: TrainConfig) -> Path | None:
    """Return config.yaml of the run to continue. None for a new run."""
    folder = config.output.folder
    if config.resume == "never":
        return None
    if (folder / "run.json").exists() or any((folder / "checkpoints").glob("step_*")):
        return folder / "config.yaml"
    return None if config.resume == "auto" else Path(config.resume) / "config.yaml"


def with_proposals(
    config: Config, given: Collection[str], kept: Collection[str], manifest: "Manifest", num_processes: int
) -> tuple[Config, list[str]]:
    """Add proposals for missing numbers; also return lines to print. There is one line per number, then warnings.
    Without a goal, the config is unchanged and there are no lines."""
    if not isinstance(config, AdaptConfig) or config.goal is None:
        return config, []
    facts = read_facts(config, manifest, num_processes)
    given = {*given, "train.steps"} if config.train.epochs is not None else given
    fixed = {*given, *kept}
    numbers = propose(config, fixed, facts)
    settled = with_options(config, {number.key: number.value for number in numbers if number.key not in fixed})
    lines = [f"goal {config.goal}: {facts}.", *explained(settled, numbers, given, kept)]
    return settled, lines + [f"warning: {text}" for text in doubts(config, facts)]


def read_facts(config: TrainConfig, manifest: "Manifest", num_processes: int) -> DatasetFacts:
    """Return the facts behind the proposals. They are the same on every process."""
    from finetune.data.class_images import is_class_image

    held_out = held_out_indices(manifest.records, config.validation)
    trained = [record for index, record in enumerate(manifest.records) if index not in held_out]
    records = [record for record in trained if not is_class_image(record)]
    if not records:
        raise ValueError(
            f"data.folder: all images ({len(manifest.records)}) are held out for validation. Lower validation.fraction."
        )
    return DatasetFacts(
        num_distinct=len({record.sha256 for record in records}),
        num_listed=len(records),
        num_held_out=len(held_out),
        num_captions=len({caption for record in records for caption in record.captions}),
        entries_per_pass=sum(record.repeats for record in records),
        resolution=config.data.resolution,
        global_batch_size=config.train.batch_size * config.train.accumulation * num_processes,
        own_share=own_share(config),
    )


def explained(config: TrainConfig, numbers: list[Number], given: Collection[str], kept: Collection[str]) -> list[str]:
    """Return one line per number: its value, its source and its reason."""
    used, lines = as_flat(config), []
    for number in numbers:
        origin = "given" if number.key in given else "kept from the run" if number.key in kept else ""
        value = f"{used[number.key]:g}" if isinstance(used[number.key], float) else str(used[number.key])
        because = f"{origin}; proposed would be {number.value:g}: {number.reason}" if origin else number.reason
        lines.append(f"  {number.key:22s} {value:8s} {because}.")
    return lines


def launched_processes() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))
