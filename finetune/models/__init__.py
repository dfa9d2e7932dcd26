"""The model families, resolved when asked for, so that naming one loads no torch."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from finetune.models.base import ModelFamily

FAMILIES = {
    "sd": "finetune.models.sd:StableDiffusion",
    "sdxl": "finetune.models.sdxl:StableDiffusionXL",
}


def family_named(name: str) -> "ModelFamily":
    """Returns the family of that name; raises ValueError for one that is not known."""
    if name not in FAMILIES:
        raise ValueError(f"model.family: got {name}, expected one of {', '.join(FAMILIES)}.")
    module, _, attribute = FAMILIES[name].partition(":")
    return vars(importlib.import_module(module))[attribute]()
