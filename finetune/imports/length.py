"""Epochs, and steps from epochs and shares of a run; torch-free."""

import math
from typing import Any, cast

from finetune.imports.given import SUBJECT, Given
from finetune.imports.samples import num_in_pass, num_samples
from finetune.imports.translate import OF_DEFAULT, Translation, hidden

STEPS, EPOCHS, BATCH, ACCUMULATION = "train.steps", "train.epochs", "train.batch_size", "train.accumulation"


def images_of_epoch(found: Translation, given: Given) -> tuple[float | None, str]:
    """Count the images of an epoch in all folders. Also return the place that is not here to be counted."""
    own = [folder for folder in given.folders if not folder.is_class]
    if not own:
        return None, "the folder of images"
    counts = [(folder, num_samples(folder)) for folder in own]
    absent = [folder.path or "the folder of images" for folder, num in counts if num is None]
    has_class = given.recipe == SUBJECT and found.settings.get("prior.kind", "pictures") == "pictures"
    times = 2 if has_class or len(own) < len(given.folders) else 1  # class images are as many in a step here
    return (None if absent else times * sum(num or 0 for _, num in counts)), (absent or [""])[0]


def settle_lengths(found: Translation, given: Given) -> None:
    """Translate epochs, shares of the run and steps of forward passes."""
    images, where = images_of_epoch(found, given)
    per_step = _number(found, BATCH) * _number(found, ACCUMULATION)
    per_epoch = None if images is None else images / per_step
    run = 0
    order = {"passes": 0, "forward_passes": 0, "every_passes": 1, "warmup": 2}
    for key, row, value in sorted(found.deferred, key=lambda part: order[part[1].conversion]):
        is_default = key not in given.options
        text = f"{key} {hidden(key, value)}"
        try:
            number = float(str(value))
        except ValueError:
            found.absent.append(f"{text}: expected a number.")
            continue
        if number == 0:
            found.idle.append(key)
        elif row.conversion == "passes":
            _epochs(found, given, key, number, text, is_default)
            run = math.ceil(round(number * (per_epoch or 0), 6))
        elif row.conversion == "warmup":
            _warm_up(found, given, key, number, text + (OF_DEFAULT if is_default else ""), run)
        elif row.conversion == "forward_passes":
            parts = int(float(str(given.options.get("train.gradient_accumulation_steps", 1) or 1)))
            found.put({STEPS: math.ceil(number / max(1, parts))}, key, text, is_default=is_default)
        elif per_epoch is None:
            found.absent.append(
                f"{text}{OF_DEFAULT if is_default else ''}: an epoch is not known, since {where} is not here to be "
                f"counted. Set {row.to}: one epoch is the images with their repeats, divided by train.batch_size x "
                "train.accumulation x processes."
            )
        else:
            how = f"{images:g} images / {per_step:g} per step = {per_epoch:g} steps an epoch, with one process"
            found.put({str(row.to): max(1, round(number * per_epoch)), **row.also}, key, text, how, is_default)


def _number(found: Translation, key: str) -> float:
    try:
        return max(1.0, float(str(found.settings.get(key, 1))))
    except ValueError:
        return 1.0


def _epochs(found: Translation, given: Given, key: str, number: float, text: str, is_default: bool) -> None:
    """Take epochs over as passes of ours. Repeats of a single folder, and whole repeats of several, change them."""
    own = [folder for folder in given.folders if not folder.is_class]
    passes = passes_per_epoch(found, given)
    epochs = round(number * passes, 6)
    differs: list[str] = []
    if passes != 1:
        over = "the folder" if len(own) == 1 else "the folders with their repeats here, which are whole numbers"
        differs.append(f"an epoch there is {passes:g} passes over {over}.")
    if len(own) < len(given.folders) and given.table.name != "sd-scripts":
        differs.append("class images do not count here: an epoch is a pass over the others.")
    found.put({EPOCHS: int(epochs) if epochs == int(epochs) else epochs}, key, text, " ".join(differs), is_default)


def passes_per_epoch(found: Translation, given: Given) -> float:
    """Return the passes here with the samples of one epoch there."""
    own = [folder for folder in given.folders if not folder.is_class and folder.path]
    if not given.is_several:
        return float(own[0].repeats) if len(own) == 1 else 1.0
    entries = cast(list[dict[str, Any]], found.settings.get("data.folders", []))
    times = [float(each.get("repeats", 1)) for each in entries if not each.get("is_regularisation")]
    if any("share" in each for each in entries):
        return 1.0
    images = [num_in_pass(folder.path) for folder in own]
    weights = images if all(images) else [1] * len(own)
    theirs = sum(float(folder.repeats) * weight for folder, weight in zip(own, weights, strict=True))
    return theirs / sum(each * weight for each, weight in zip(times, weights, strict=True))


def _warm_up(found: Translation, given: Given, key: str, number: float, text: str, run: int) -> None:
    """Translate a warm-up, which may be a share of the run. `run` is its steps by epochs, or 0."""
    schedule = str(given.options.get("lr_scheduler", "constant")).lower()
    if given.table.constant_without_warmup and schedule == "constant":
        found.differs.append(
            f"{text}: lr_scheduler constant has no warm-up there, so none is set; it is optim.warmup_steps."
        )
        return
    steps = int(_number(found, STEPS)) if STEPS in found.settings else 0
    steps = run if EPOCHS in found.settings else steps
    if number < 1:
        if not steps:
            found.absent.append(f"{text}: a share of the steps, which are not known. Set optim.warmup_steps.")
            return
        found.put({"optim.warmup_steps": int(number * steps)}, key, text, f"a share of {steps} steps")
    elif steps and number >= steps:
        found.absent.append(f"{text}: the run has {steps} steps. Set optim.warmup_steps below that.")
    else:
        found.put({"optim.warmup_steps": int(number)}, key, text)
