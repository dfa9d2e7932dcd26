"""Epochs, and steps from epochs and shares of a run; torch-free."""

import math
import posixpath
from pathlib import Path

from finetune.data.folder_repeats import NUMBERED
from finetune.imports.given import Folder, Given
from finetune.imports.translate import Translation, hidden

STEPS, EPOCHS, BATCH, ACCUMULATION = "train.steps", "train.epochs", "train.batch_size", "train.accumulation"


def num_images(folder: Folder) -> float | None:
    """Count the images of an epoch. Folders called 10_NAME repeat theirs. None where there is no folder."""
    if not Path(folder.path).is_dir():
        return None
    from finetune.data.listing import Findings
    from finetune.data.visible_files import IMAGE_SUFFIXES, visible_files

    total = 0
    for name in visible_files(folder.path, Findings()):
        if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            match = NUMBERED.fullmatch(posixpath.basename(posixpath.dirname(name)))
            total += int(match[1]) if match else 1
    return total * folder.repeats or None


def images_of_epoch(given: Given) -> tuple[float | None, str]:
    """Count the images of an epoch in all folders. Also return the place that is not here to be counted."""
    own = [folder for folder in given.folders if not folder.is_class]
    if not own:
        return None, "the folder of images"
    counts = [(folder, num_images(folder)) for folder in own]
    absent = [folder.path or "the folder of images" for folder, num in counts if num is None]
    times = 2 if len(own) < len(given.folders) and given.table.name == "sd-scripts" else 1  # class images are as many
    return (None if absent else times * sum(num or 0 for _, num in counts)), (absent or [""])[0]


def settle_lengths(found: Translation, given: Given) -> None:
    """Translate epochs, shares of the run and steps of forward passes."""
    images, where = images_of_epoch(given)
    per_step = _number(found, BATCH) * _number(found, ACCUMULATION)
    per_epoch = None if images is None else math.ceil(images / per_step)
    order = {"passes": 0, "forward_passes": 0, "every_passes": 1, "warmup": 2}
    for key, row, value in sorted(found.deferred, key=lambda part: order[part[1].conversion]):
        text = f"{key} {hidden(key, value)}"
        try:
            number = float(str(value))
        except ValueError:
            found.absent.append(f"{text}: expected a number.")
            continue
        if number == 0:
            found.idle.append(key)
        elif row.conversion == "passes":
            _epochs(found, given, key, number, text, is_default=key not in given.options)
        elif row.conversion == "warmup":
            _warm_up(found, given, key, number, text, per_epoch)
        elif row.conversion == "forward_passes":
            parts = int(float(str(given.options.get("train.gradient_accumulation_steps", 1) or 1)))
            found.put({STEPS: math.ceil(number / max(1, parts))}, key, text, is_default=key not in given.options)
        elif per_epoch is None:
            found.absent.append(
                f"{text}: an epoch is not known, since {where} is not here to be counted. Set {row.to}: one epoch is "
                "the images with their repeats, divided by train.batch_size x train.accumulation x processes."
            )
        else:
            how = f"{images:g} images / {per_step:g} per step = {per_epoch} steps an epoch, with one process"
            found.put({str(row.to): max(1, round(number * per_epoch))}, key, text, how)


def _number(found: Translation, key: str) -> float:
    try:
        return max(1.0, float(str(found.settings.get(key, 1))))
    except ValueError:
        return 1.0


def _epochs(found: Translation, given: Given, key: str, number: float, text: str, is_default: bool) -> None:
    """Take epochs over. In a single folder its repeats, which only lengthen an epoch, become passes."""
    own = [folder for folder in given.folders if not folder.is_class]
    repeats = own[0].repeats if len(own) == 1 and not given.is_several else 1
    epochs = number * repeats
    differs = [f"an epoch there is {repeats:g} passes over the folder."] if repeats != 1 else []
    if len(own) < len(given.folders) and given.table.name != "sd-scripts":
        differs.append("class images do not count here: an epoch is a pass over the others.")
    found.put({EPOCHS: int(epochs) if epochs == int(epochs) else epochs}, key, text, " ".join(differs), is_default)


def _warm_up(found: Translation, given: Given, key: str, number: float, text: str, per_epoch: int | None) -> None:
    """Translate a warm-up, which may be a share of the run."""
    schedule = str(given.options.get("lr_scheduler", "constant")).lower()
    if given.table.constant_without_warmup and schedule == "constant":
        found.differs.append(
            f"{text}: lr_scheduler constant has no warm-up there, so none is set; it is optim.warmup_steps."
        )
        return
    steps = int(_number(found, STEPS)) if STEPS in found.settings else 0
    if EPOCHS in found.settings and per_epoch is not None:
        steps = math.ceil(_number(found, EPOCHS) * per_epoch)
    if number < 1:
        if not steps:
            found.absent.append(f"{text}: a share of the steps, which are not known. Set optim.warmup_steps.")
            return
        found.put({"optim.warmup_steps": int(number * steps)}, key, text, f"a share of {steps} steps")
    elif steps and number >= steps:
        found.absent.append(f"{text}: the run has {steps} steps. Set optim.warmup_steps below that.")
    else:
        found.put({"optim.warmup_steps": int(number)}, key, text)
