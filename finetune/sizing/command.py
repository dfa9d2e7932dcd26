"""`finetune plan`: steps, memory, disk and time, without a run."""

import dataclasses
import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config.parse.dump import as_flat, dump
from finetune.planning.plan import Plan, plan_lines, read_plan
from finetune.planning.scale_warnings import scale_warnings
from finetune.sizing.duration import seconds_per_step, time_text

if TYPE_CHECKING:
    from finetune.sizing.measure import Sizes


@dataclass(frozen=True)
class PlanOptions:
    """The options of the command, beside those of the recipe."""

    recipe: str
    options: Sequence[str]
    processes: int = 1
    sharded: bool = False
    """The launch is that of accelerate_configs/fsdp2.yaml."""
    memory_gb: float | None = None
    """Of the device, in 10^9 bytes."""
    step_seconds: float | None = None
    device: str | None = None
    """cuda or cpu; None takes this machine's."""
    precision: str | None = None
    """bf16, fp16 or no; None takes that of accelerate_configs/."""
    json: bool = False


def plan(options: PlanOptions, say: Callable[[str], None]) -> None:
    """Print the plan as lines, or as one JSON object. Raises ValueError or OSError where the recipe's command would,
    for all that it checks before it reads weights."""
    for name, number in (("memory-gb", options.memory_gb), ("step-seconds", options.step_seconds)):
        if number is not None and not number > 0:
            raise ValueError(f"plan: got --{name} {number:g}, expected a number above 0.")
    if options.sharded and options.processes < 2:
        raise ValueError("plan: got --sharded with one process, expected --processes 2 or more.")
    found = read_plan(options.recipe, options.options, options.processes)
    seconds, source = seconds_per_step(found.config, options.step_seconds)
    sizes, without = sized(found, options)
    warnings = [*found.warnings, *model_warnings(found, sizes)]
    if options.json:
        figures = plan_figures(found, warnings) | {"seconds_per_step": seconds}
        say(json.dumps(figures | ({"unknown": without} if sizes is None else sizes.figures()), indent=1))
        return
    for line in plan_lines(dataclasses.replace(found, warnings=tuple(warnings))):
        say(line)
    say(time_text(found.config.train.steps, seconds, source))
    for line in [without] if sizes is None else sizes.lines(options.memory_gb):
        say(line)
    say("All options, as OUT/config.yaml would hold them:")
    say(textwrap.indent(dump(found.config), "  ").rstrip())
    say("Nothing was trained.")


def sized(found: Plan, options: PlanOptions) -> "tuple[Sizes | None, str]":
    """Return the figures that depend on the model. Where they are unknown, say why."""
    if not found.names_model:
        return None, "Memory: unknown without a model. Add --model.source."
    if found.recipe.method is None:
        return None, "Memory: not planned for a recipe of several stages."
    from finetune.sizing.measure import measure
    from finetune.sizing.model import NotHere

    try:
        return measure(found, options.device, options.precision, options.memory_gb, is_sharded=options.sharded), ""
    except NotHere as absent:
        return None, f"Memory: unknown. {absent}"


def model_warnings(found: Plan, sizes: "Sizes | None") -> Iterator[str]:
    """Yield warnings where the run misfits its model or dataset."""
    denoiser, pixels = ({}, 1) if sizes is None else (sizes.denoiser, sizes.pixels_per_latent)
    yield from scale_warnings(denoiser, pixels, found.config.data.resolution, found.facts.num_listed, found.passes)


def plan_figures(found: Plan, warnings: Sequence[str]) -> dict[str, Any]:
    """Return what the lines say, for machines."""
    return {
        "steps": found.config.train.steps,
        "global_batch_size": found.facts.global_batch_size,
        "images_seen": found.images_seen,
        "passes": found.passes,
        "num_images": found.facts.num_listed,
        "num_held_out": found.facts.num_held_out,
        "buckets": [dataclasses.asdict(bucket) for bucket in found.buckets],
        "warnings": list(warnings),
        "notes": list(found.notes),
        "options": as_flat(found.config),
    }
