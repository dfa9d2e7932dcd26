"""diffusers' note of ranks and alphas in a LoRA file's metadata."""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from finetune.json_text import parse_json

DIFFUSERS_METADATA = "lora_adapter_metadata"
"""diffusers' own note of ranks and alphas, in JSON."""
Scale = Callable[[str], float]


def diffusers_scale(metadata: Mapping[str, str]) -> Scale:
    """Read alpha / rank of layers from diffusers' metadata. It is 1 where there are none."""
    noted = notes_of(metadata)

    def scale(name: str) -> float:
        part, _, layer = name.partition(".")
        usual_alpha, usual_rank = noted.get(f"{part}.lora_alpha"), noted.get(f"{part}.r")
        if usual_alpha is None or usual_rank is None:
            return 1.0
        alpha = matching(noted.get(f"{part}.alpha_pattern", {}), layer, usual_alpha)
        return float(alpha) / float(matching(noted.get(f"{part}.rank_pattern", {}), layer, usual_rank))

    return scale


def notes_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read diffusers' note of ranks and alphas. Raises ValueError for a damaged one."""
    try:
        noted: object = parse_json(metadata.get(DIFFUSERS_METADATA, "{}"))
    except ValueError as error:
        raise ValueError(
            f"metadata: {DIFFUSERS_METADATA} is not JSON ({error}), so scales are not known. Use another file."
        ) from error
    if not isinstance(noted, dict):
        raise ValueError(
            f"metadata: {DIFFUSERS_METADATA} is {str(noted)[:60]}, expected an object with r and lora_alpha per part. "
            "Use another file."
        )
    found = cast("dict[str, Any]", noted)
    for key, value in found.items():
        if key.endswith((".r", ".lora_alpha")):
            require_number(DIFFUSERS_METADATA, key, value)
        elif key.endswith((".rank_pattern", ".alpha_pattern")):
            require_numbers(DIFFUSERS_METADATA, key, value)
    return found


def require_numbers(where: object, name: str, patterns: object) -> None:
    """Raise ValueError for anything but numbers by layer."""
    if not isinstance(patterns, dict):
        raise ValueError(f"metadata: {where} has {name} {patterns!r}, expected numbers by layer. Use another file.")
    for layer, value in cast("dict[str, object]", patterns).items():
        require_number(where, f"{name} of {layer}", value)


def require_number(where: object, name: str, value: object) -> None:
    """Raise ValueError for anything but a finite number other than 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value == 0:
        raise ValueError(
            f"metadata: {where} has {name} {value!r}, expected a number other than 0, so scales are not known. Use "
            "another file."
        )


def matching(patterns: Mapping[str, float], layer: str, usual: float) -> float:
    """Look a layer's number up. The pattern of a name is its end, as peft has it."""
    named = [value for pattern, value in patterns.items() if layer.endswith(pattern.strip("^$").replace("\\", ""))]
    return named[0] if named else usual
