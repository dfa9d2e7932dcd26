"""The model families, imported on use, so naming one loads no torch."""

import typing

from finetune.config.parse.convert import suggestion
from finetune.import_named import import_named

if typing.TYPE_CHECKING:
    from finetune.models.family import ModelFamily

FAMILIES = {
    "sd": "finetune.models.families.sd:StableDiffusion",
    "sdxl": "finetune.models.families.sdxl:StableDiffusionXL",
    "sd3": "finetune.models.families.sd3:StableDiffusion3",
    "flux": "finetune.models.families.flux:Flux",
}


def family_named(name: str) -> "ModelFamily":
    """Return the family of that name; ValueError for an unknown one."""
    refuse_unknown_family(name)
    return import_named(FAMILIES[name])()


def refuse_unknown_family(name: str | None) -> None:
    """Raise ValueError for an unknown family. The name none means that of the checkpoint."""
    if name is not None and name not in FAMILIES:
        raise ValueError(
            f"model.family: got {name}, expected one of {', '.join(FAMILIES)}.{suggestion(name, FAMILIES)} Leave it "
            "away to have it found in the checkpoint."
        )
