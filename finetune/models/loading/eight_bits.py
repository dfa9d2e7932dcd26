"""Weights in 8 bits without scales: coarse, but usable."""

from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open

from finetune.models.family import ModelSource
from finetune.models.loading.components import weighted_parts
from finetune.models.loading.other_vae import vae_paths
from finetune.models.loading.part_files import part_files, variant_of

FP8 = "F8_"
"""How safetensors' names of the formats begin: F8_E4M3, F8_E5M2."""


def eight_bit_warnings(source: ModelSource) -> list[str]:
    """Return one warning that counts all parts' weights in 8 bits. The files are on this machine by now. Such
    weights with scales beside them are refused, since nothing here applies the scales."""
    formats = stored_formats(weight_paths(source))
    narrow = [name for name in formats if name.startswith(FP8)]
    if not narrow:
        return []
    return [
        f"model.source: {len(narrow):,} of {len(formats):,} weights of {source.location} are stored in 8 bits (fp8), "
        "rounded to 2 or 3 bits after the point; the run learns on top of that rounding. Use the same model in fp16, "
        "bf16 or fp32 where there is one; --model.quantization fp8 saves the same memory."
    ]


def weight_paths(source: ModelSource) -> list[Path]:
    """Return the files that the parts of a model are read from."""
    if source.is_single_file:
        return [Path(source.location), *vae_paths(source)]
    found = []
    for part in weighted_parts(source):
        files = part_files(source, part, has_weights=True)
        paths = sorted((files.root / part).glob("*.safetensors"))
        found += [path for path in paths if variant_of(path.name) == files.variant]
    return [*found, *vae_paths(source)]


def stored_formats(paths: Iterable[Path]) -> list[str]:
    """Return the number format of each weight, as safetensors names it."""
    formats = []
    for path in paths:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                formats += [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118 (not a dict)
    return formats
