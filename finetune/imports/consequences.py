"""Consequences of several options of an imported config; torch-free."""

import math
import re
from typing import cast

from finetune.config.optim import OPTIMIZERS
from finetune.config.trainers.tables import is_off
from finetune.imports.given import Given
from finetune.imports.translate import Translation, hidden, is_flow_matching, shown

RANK, ALPHA = "lora.rank", "lora.alpha"
RESOLUTION, BUCKET_STEP = "data.resolution", "data.bucket_step"
FULL_MATRIX = ("network.lokr_full_rank", "network_args.full_matrix", "lycoris.full_matrix", "lokr_full_matrix")
"""Their options for a full factor of lokr."""
FULL_RANK = 10_000
"""A rank at which the large factor of lokr is full in every layer."""
SURELY_FULL = 4096
UNSET = re.compile(r"\$env:\w+|\$\{\w+\}|\$[A-Za-z_]\w*|%[A-Za-z_]\w*%|\{env:\w+\}|\$\d\b", re.IGNORECASE)
"""A variable of a shell, or of SimpleTuner's files."""
PLACES = ("model.", "data.folder", "output.", "prior.folder", "mask.folder", "cache.folder", "lora.start")
"""Options that are paths and names."""
SIDE = 8
"""Sides of images are multiples of it."""


def put_consequences(found: Translation, given: Given) -> None:
    """Set what follows from other options, and say what numbers mean."""
    settings = found.settings
    if settings.get("train.text_encoder") is True:
        settings["cache.text"], found.origins["cache.text"] = False, "the text encoder is trained"
    name = settings.get("optim.name")
    if name in OPTIMIZERS and OPTIMIZERS[str(name)].finds_lr and (_number(settings.get("optim.lr")) or 0) < 0.1:
        given_rate = shown(settings.get("optim.lr", "none"))
        settings["optim.lr"], found.origins["optim.lr"] = 1.0, f"{name} finds the rate"
        found.differs.append(
            f"optim.lr {given_rate}: {name} finds the rate itself, and optim.lr multiplies it; 1 is taken."
        )
    if given.method == "lora":
        _put_scale(found, given)
    _put_bucket_step(found)
    if "train.batch_size" in settings:
        found.differs.append(
            f"train.batch_size {shown(settings['train.batch_size'])} is per process: with several a step sees that "
            "many images times the processes, and train.steps counts updates of the weights."
        )


def _put_scale(found: Translation, given: Given) -> None:
    """Set rank and alpha where their trainer does not scale by them."""
    settings = found.settings
    is_lokr = settings.get("lora.kind") == "lokr"
    full = _full_factor(found, given) if is_lokr else ""
    if full:
        settings[RANK], found.origins[RANK] = FULL_RANK, full
        settings.pop(ALPHA, None)
        found.differs.append(
            f"{full}: the large factor of every layer is full there, at a scale of 1 whatever alpha is; lora.rank "
            f"{FULL_RANK} makes it full here, and without lora.alpha the scale is 1."
        )
        return
    rank, alpha = _number(settings.get(RANK)), _number(settings.get(ALPHA))
    if not rank or not alpha or rank == alpha:
        return
    if given.table.name == "ai-toolkit" and is_flow_matching(given) and not is_lokr:
        del settings[ALPHA]
        found.differs.append(
            f"{found.origins[ALPHA]} {alpha:g}: ai-toolkit does not read it for models of flow matching, where alpha "
            "is the rank; lora.alpha is omitted, which means the same."
        )
        return
    other = " Layers whose large factor is full at that rank have a scale of 1 there." if is_lokr else ""
    found.differs.append(
        f"lora.alpha {alpha:g} with lora.rank {rank:g}: updates are scaled by {alpha / rank:g} "
        f"there and here, so optim.lr means the same. Rates of our presets are for a scale of 1.{other}"
    )


def _full_factor(found: Translation, given: Given) -> str:
    """Return their option for a full factor of lokr, with its value. Empty for none."""
    for key in FULL_MATRIX:
        if not is_off(given.options.get(key)):
            return f"{key} {hidden(key, given.options[key])}"
    key = FULL_MATRIX[0]
    if given.table.name == "ai-toolkit" and key not in given.options:
        return f"{key} true, its default there"
    rank = _number(found.settings.get(RANK)) or 0
    return f"{found.origins[RANK]} {rank:g}" if rank >= SURELY_FULL else ""


def _put_bucket_step(found: Translation) -> None:
    """Set a step of buckets that divides the resolution."""
    settings = found.settings
    resolution, step = settings.get(RESOLUTION), _number(settings.get(BUCKET_STEP, 64))
    if not isinstance(resolution, int) or not step or step % 1 or not resolution % step:
        return
    if resolution % SIDE:
        nearest = max(1, round(resolution / step)) * int(step)
        found.differs.append(
            f"{found.origins[RESOLUTION]} {resolution}: sides are multiples of {SIDE} here; data.resolution {nearest} "
            "is taken."
        )
        settings[RESOLUTION] = nearest
        return
    settings[BUCKET_STEP] = math.gcd(resolution, int(step))
    found.origins[BUCKET_STEP] = f"a step that divides the resolution {resolution}"
    found.differs.append(
        f"{found.origins[RESOLUTION]} {resolution} -> data.bucket_step {settings[BUCKET_STEP]}: it must divide the "
        "resolution here."
    )


def drop_unset_variables(found: Translation) -> None:
    """Leave out paths with a variable that nothing sets, and name them."""
    for key, value in [*found.settings.items()]:
        if key == "data.folders":
            for entry in cast(list[dict[str, object]], value):
                if unset := UNSET.search(str(entry["folder"])):
                    found.absent.append(f"data.folders {entry['folder']}: {unset[0]} is not set. Write the folder.")
        elif key.startswith(PLACES) and (unset := UNSET.search(str(value))):
            del found.settings[key]
            found.absent.append(
                f"{found.origins[key]} -> {key} {value}: the variable {unset[0]} is not set. Give --{key}, or write "
                "the value into their file."
            )


def _number(value: object) -> float | None:
    """Return a number; none for text that our parser refuses later."""
    try:
        return float(str(value))
    except ValueError:
        return None
