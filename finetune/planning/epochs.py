"""Steps of train.epochs, kept from a continued run or counted; torch-free."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from finetune.config.parse.dump import read_options, with_options
from finetune.config.parse.recipe_options import EPOCHS, STEPS, WARMUP, shortened_warmup
from finetune.config.train import TrainConfig, unfit_for_steps
from finetune.planning.advice import DatasetFacts
from finetune.planning.proposal import Config, continued_config, read_facts
from finetune.plurals import plural

if TYPE_CHECKING:
    from finetune.data.manifest import Manifest


def with_steps(
    config: Config,
    given: Collection[str],
    read_manifest: Callable[[], "Manifest"],
    num_processes: int,
    arguments: Sequence[str],
    say: Callable[[str], None],
) -> Config:
    """Settle the steps of train.epochs. The dataset is read only where they are not kept from a run."""
    config, line = with_kept_steps(config, given)
    if line is not None:
        say(line)
    elif config.train.epochs is not None:
        config = with_counted_steps(config, given, read_manifest(), num_processes, arguments, say)
    return config


def with_kept_steps(config: Config, given: Collection[str]) -> tuple[Config, str | None]:
    """Add the steps of a run that continues with the same epochs. Also return a line to print, which is None where the
    dataset has to be counted. So a run is as long as it was, on any number of processes."""
    epochs, saved = config.train.epochs, continued_config(config)
    if epochs is None or saved is None:
        return config, None
    kept = read_options(saved, type(config), (STEPS, EPOCHS))
    if kept.get(EPOCHS) != epochs or STEPS not in kept:
        return config, None
    steps = kept[STEPS]
    refuse_both(config, given, steps, "as this run began")
    return with_options(config, {STEPS: steps}), f"{EPOCHS} {epochs:g}: {plural(steps, 'step')}, kept from the run."


def with_counted_steps(
    config: Config,
    given: Collection[str],
    manifest: "Manifest",
    num_processes: int,
    arguments: Sequence[str],
    say: Callable[[str], None],
) -> Config:
    """Replace train.epochs by steps, and print the sum. A preset's warm-up is shortened to fit. Raises ValueError where
    steps are given too, or other options do not fit them."""
    epochs = config.train.epochs
    if epochs is None:
        return config
    facts = read_facts(config, manifest, num_processes)
    steps = steps_of(epochs, facts)
    of_class = f", {facts.own_share:.0%} of them of the folder" if facts.own_share < 1 else ""
    reason = (
        f"{plural(facts.entries_per_pass, 'image')} in a pass, {facts.global_batch_size:,} in a step{of_class} "
        f"(processes {num_processes} x batch {config.train.batch_size} x accumulation {config.train.accumulation})"
    )
    refuse_both(config, given, steps, reason)
    changed: dict[str, object] = {STEPS: steps}
    if (warmup := shortened_warmup(type(config), arguments, steps, say)) is not None:
        changed[WARMUP] = warmup
    settled = with_options(config, changed)
    if problems := list(unfit_for_steps(settled.train, settled.optim, settled.evaluate)):
        raise ValueError("\n".join(f"{problem} {EPOCHS} {epochs:g} is {steps} steps." for problem in problems))
    say(f"{EPOCHS} {epochs:g}: {plural(steps, 'step')}; {reason}.")
    return settled


def steps_of(epochs: float, facts: DatasetFacts) -> int:
    """Return the fewest steps that see the images so often. Images flow from one pass into the next."""
    own_per_step = facts.global_batch_size * facts.own_share
    return max(1, math.ceil(round(epochs * facts.entries_per_pass / own_per_step, 6)))


def refuse_both(config: TrainConfig, given: Collection[str], steps: int, reason: str) -> None:
    """Refuse steps beside epochs that are other steps."""
    if STEPS in given and config.train.steps != steps:
        raise ValueError(
            f"{EPOCHS}: got {config.train.epochs:g}, which is {plural(steps, 'step')} ({reason}), beside {STEPS} "
            f"{config.train.steps}, which ends the run after {plural(config.train.steps, 'step')}. Remove one of both."
        )
