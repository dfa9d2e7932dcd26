"""The tensors of an adapter file, and what no reader accepts."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from finetune.plurals import first_few, plural

DOWN = re.compile(r"(.+?)(?:\.lora(?:_A|_down|\.down|_linear_layer\.down)|_lora\.down)(?:\.\w+)?\.weight")
UP = re.compile(r"(.+?)(?:\.lora(?:_B|_up|\.up|_linear_layer\.up)|_lora\.up)(?:\.\w+)?\.weight")
PIECE = re.compile(r"(.+?)\.((?:hada|lokr)_\w+|diff|diff_b|alpha|dora_scale|lora_mid\.weight|scalar)")
MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.\w+)*")


def piece_of(key: str) -> tuple[str, str] | None:
    """Split a tensor's name into layer and piece. Pieces are named as in sd-scripts and LyCORIS."""
    for pattern, piece in ((DOWN, "lora_down.weight"), (UP, "lora_up.weight"), (MAGNITUDE, "dora_scale")):
        if match := pattern.fullmatch(key):
            return match[1], piece
    match = PIECE.fullmatch(key)
    return (match[1], match[2]) if match else None


def refuse_malformed(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a file that readers would misunderstand.

    These are two names of one tensor, whole numbers without scales, layers of rank 0, and an alpha that is not one
    number.
    """
    first: dict[tuple[str, str], str] = {}
    integers: list[str] = []
    for key, value in tensors.items():
        placed = piece_of(key)
        if placed is None:
            continue
        if (earlier := first.setdefault(placed, key)) != key:
            raise ValueError(two_names(path, earlier, key, f"the same matrix of {placed[0]}"))
        if placed[1] in ("alpha", "scalar"):
            refuse_several(path, key, value)
        elif not value.numel():
            raise ValueError(
                f"{path.name}: {key} has the shape {tuple(value.shape)}, a rank of 0 or no numbers at all. Save the "
                "file without this layer, or use another file."
            )
        elif not value.is_floating_point():
            integers.append(key)
    if integers:
        name = str(tensors[integers[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{path.name}: {plural(len(integers), 'tensor')} of {name} ({first_few(integers)}), whose scales are not "
            "known. Expected fp32, fp16, bf16 or fp8. Use the file from before it was quantized."
        )


def refuse_several(path: Path, key: str, value: Tensor) -> None:
    """Raise ValueError for a factor that is not one number."""
    if value.numel() != 1:
        raise ValueError(
            f"{path.name}: {key} has the shape {tuple(value.shape)}, expected one number. Save the file again in the "
            "program that made it, or use another file."
        )


def two_names(path: Path, one: str, other: str, what: str) -> str:
    """Say that a file names something twice."""
    return (
        f"{path.name}: {one} and {other} are both {what}, and one of them would be lost. Remove one from the file, or "
        "use another file."
    )


def note_name(path: Path, names: dict[str, str], place: str, name: str) -> None:
    """Keep the file's name for a place in the model. Raises ValueError where it has another name already."""
    if (earlier := names.setdefault(place, name)) != name:
        raise ValueError(two_names(path, earlier, name, f"the layer {place} of the base model"))
