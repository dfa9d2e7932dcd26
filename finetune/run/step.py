"""One optimizer step. A loss that is not finite stops the run before the update."""

import contextlib
import functools
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune.batches.batch import Batch
from finetune.batches.batch_errors import with_plain_errors
from finetune.batches.dataset import TrainingDataset
from finetune.config.optim import OPTIMIZERS
from finetune.config.train import TrainConfig
from finetune.files import write_atomically
from finetune.models.compiled import compiled_step
from finetune.models.kernels import attention_kernel
from finetune.optim.build import learning_rate_factor
from finetune.optim.first_steps import NUM_WATCHED
from finetune.optim.groups import hold, is_held
from finetune.optim.per_parameter import PerParameterOptimizer
from finetune.optim.sharded import average_replicated, clip_gradients
from finetune.out_of_memory import explaining_out_of_memory
from finetune.planning.ladder import next_options
from finetune.plurals import either, plural
from finetune.processes.ranks import ranks
from finetune.processes.saved_progress import newest_checkpoint_text
from finetune.randomness import noise_at, stream, uniform_at
from finetune.session import Session
from finetune.tasks.base import Task

SMALL_STATES = either([name for name, facts in OPTIMIZERS.items() if facts.has_small_state])


@dataclass(frozen=True)
class StepResult:
    """This process's part of a step. Mean weighted loss [], timesteps and unweighted losses [B]."""

    loss: Tensor
    timesteps: Tensor
    sample_losses: Tensor


@dataclass(frozen=True)
class StepOutcome:
    """Facts of a step that all processes share."""

    loss: float
    grad_norm: float
    is_stopping: bool


def due(step: int, every: int, steps: int) -> bool:
    """True every `every` steps and at the end."""
    return step % every == 0 or step == steps


def remaining_batches(session: Session, step: int) -> Iterator[Batch]:
    """Return the batches of the steps from `step` on."""
    left = session.run.steps - step
    if left <= 0:
        return iter(())
    return itertools.islice(with_plain_errors(iter(session.data.loader)), left)


def set_learning_rates(session: Session, step: int) -> None:
    """Set every parameter group's learning rate of a step. It is a function of the step alone."""
    config, optimizer = session.run.config, session.tuned.optimizer
    factor = learning_rate_factor(step, config.optim, session.run.steps)
    for group in optimizer.param_groups:
        held = is_held(group["name"], step, config.train.text_encoder_steps)
        group["lr"] = 0.0 if held else group["peak_lr"] * factor
    if isinstance(optimizer, PerParameterOptimizer):
        optimizer.set_step(step)


def optimizer_step(session: Session, step: int, batch: Batch) -> StepOutcome:
    """Make the update after step `step`, unless its loss is not finite."""
    run, tuned = session.run, session.tuned
    config, accelerator = run.config, run.accelerator
    torch.manual_seed(stream(config.seed, "dropout", step, accelerator.process_index))
    with naming_out_of_memory(step + 1, batch, session.data.dataset, config), ranks().in_step():
        with compiled_step(config.train.compile), attention_kernel(config.train.attention):
            result = forward_backward(tuned.wrapped, session.task, batch, config, accelerator)
        hold(tuned.optimizer.param_groups, step, config.train.text_encoder_steps)
        grad_norm = gradient_norm(tuned.parameters, tuned.optimizer, config, accelerator)
        loss, is_stopping = agree(result.loss, session.stop.requested(), accelerator)
        refuse_non_finite(session, step + 1, batch, result, loss, grad_norm)
        if session.first_steps and step - run.first_step < NUM_WATCHED:
            session.first_steps.see_gradients()
        update(tuned.stepper, step + 1)
    if tuned.ema:
        tuned.ema.update(tuned.network, step + 1)
    return StepOutcome(loss, grad_norm, is_stopping)


def forward_backward(
    network: nn.Module, task: Task, batch: Batch, config: TrainConfig, accelerator: Accelerator
) -> StepResult:
    """Add the gradient of the global batch's mean loss to the parameters. It takes config.train.accumulation passes."""
    num = config.train.accumulation
    total, timesteps, sample_losses = torch.zeros((), device=accelerator.device), [], []
    for number, part in enumerate(batch.micro_batches(num)):
        last = number == num - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(network):
            u = uniform_at(config.seed, "timestep", part.positions)
            noise = functools.partial(noise_at, config.seed, part.positions)
            losses = task.losses(network, task.inputs(part), u, noise)
            loss = (losses.unweighted * losses.weight * part.weight).mean()
            # Updates made in the backward pass cannot be taken back, so the loss is looked at before it.
            if not config.optim.in_backward or bool(loss.isfinite()):
                accelerator.backward(loss / num)
        total += loss.detach() / num
        timesteps.append(losses.timesteps)
        sample_losses.append(losses.unweighted.detach())
    return StepResult(total, torch.cat(timesteps), torch.cat(sample_losses))


def gradient_norm(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, config: TrainConfig, accelerator: Accelerator
) -> float:
    """Return the norm of all gradients. They are scaled down to train.max_grad_norm if they are still there."""
    if isinstance(optimizer, PerParameterOptimizer) and optimizer.in_backward:
        return float(optimizer.take_grad_norm())
    if ranks().moves_together:
        average_replicated(parameters, ranks().size)
        return float(clip_gradients(parameters, config.train.max_grad_norm))
    norm = accelerator.clip_grad_norm_(parameters, config.train.max_grad_norm or math.inf)
    return float(cast(Tensor, norm))


def agree(loss: Tensor, stopping: bool, accelerator: Accelerator) -> tuple[float, bool]:
    """Return all processes' mean loss, and whether one must stop. It is the one exchange with the device in every
    step."""
    if accelerator.num_processes == 1:
        return loss.item(), stopping
    both = torch.stack([loss, torch.tensor(float(stopping), device=loss.device)])
    mean, asked = accelerator.reduce(both, "mean").tolist()  # pyright: ignore[reportAttributeAccessIssue]
    return mean, asked > 0


@contextlib.contextmanager
def naming_out_of_memory(step: int, batch: Batch, dataset: TrainingDataset, config: TrainConfig) -> Iterator[None]:
    """Turn running out of memory in a step into a ValueError. It names the images and what to lower."""

    def doing() -> str:
        sizes = {(views[0].width, views[0].height) for views in dataset.views.values()}
        view = dataset.views[batch.indices[0]][0]
        width, height = max(sizes, key=lambda size: size[0] * size[1])
        return (
            f"in step {step}: {plural(len(batch.indices), 'image')} of {view.width}x{view.height} in "
            f"{plural(config.train.accumulation, 'pass', 'passes')} (the largest bucket is {width}x{height})"
        )

    with explaining_out_of_memory(doing, f"{newest_checkpoint_text()} {memory_advice(config)}"):
        yield


def memory_advice(config: TrainConfig) -> str:
    """Say what to switch on next. `finetune plan` knows by how much it helps."""
    found = next_options(config, num_processes=ranks().size)
    first = f"Next, cheapest in speed: {found}. Or lower" if found else "Lower"
    return (
        f"{first} data.resolution, or train.batch_size with a larger train.accumulation. finetune plan RECIPE OPTIONS "
        "--memory-gb GB shows what makes it fit."
    )


def update(stepper: torch.optim.Optimizer, step: int) -> None:
    """Make the optimizer's update of a step, and remove the gradients."""
    with explaining_out_of_memory(
        f"in the update of step {step}, where the optimizer's state is made",
        f"Choose an optimizer with a smaller state (optim.name {SMALL_STATES}), set optim.in_backward true, or train "
        "fewer weights.",
    ):
        stepper.step()
    stepper.zero_grad()


def refuse_non_finite(
    session: Session, step: int, batch: Batch, result: StepResult, loss: float, grad_norm: float
) -> None:
    """Raise ValueError where the loss or its gradient is not finite. Nothing of the step is saved except evidence."""
    run, records = session.run, session.run.manifest.records
    if math.isfinite(loss) and (run.accelerator.scaler is not None or math.isfinite(grad_norm)):
        return
    evidence = {
        "step": step,
        "loss": str(loss),
        "grad_norm": str(grad_norm),
        "samples": [
            {"file_name": records[index].file_name, "caption": caption, "timestep": t, "loss": str(sample_loss)}
            for index, caption, t, sample_loss in zip(
                batch.indices, batch.captions, result.timesteps.tolist(), result.sample_losses.tolist(), strict=True
            )
        ],
    }
    path = run.folder / f"nonfinite_step_{step:06d}_process{run.accelerator.process_index}.json"
    write_atomically(path, json.dumps(evidence, indent=1))
    ranks().exchange()
    weights = (
        "Weights were updated in the backward pass before this was known (optim.in_backward), but not saved"
        if run.config.optim.in_backward and math.isfinite(loss)
        else "The weights were not updated"
    )
    if session.records.tracker:
        session.records.tracker.alert(
            "The loss is not finite", f"The loss of step {step} is {loss}, which ends the run."
        )
    raise ValueError(
        f"the loss of step {step} is {loss} with a gradient norm of {grad_norm}. {weights}. "
        f"{newest_checkpoint_text()} Timesteps and file names of the batch are in {path}. Common causes: too high an "
        "optim.lr, fp16 (use bf16 or no mixed precision), a damaged image or base model."
    )
