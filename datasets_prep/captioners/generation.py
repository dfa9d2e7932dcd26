"""Results from the tokens that transformers models generate."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets_prep.captioners.base import Result

GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "early_stopping": False}
GREEDY |= {"temperature": None, "top_p": None, "top_k": None}
"""The likeliest token each time, so the same image gets the same caption; models' own settings often sample."""


def generate(
    model: Any, inputs: Mapping[str, Any], max_new_tokens: int, eos_ids: Sequence[int], num_given: int
) -> list[tuple[list[int], bool]]:
    """Generate token ids per row, and whether the model ended them. `num_given` first ones and the end are removed."""
    import torch

    moved = {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
    with torch.inference_mode():
        rows = model.generate(**moved, max_new_tokens=max_new_tokens, **GREEDY)
    split = []
    for row in rows[:, num_given:].tolist():
        end = next((place for place, token in enumerate(row) if token in eos_ids), None)
        split.append((row if end is None else row[:end], end is not None))
    return split


def results(tokenizer: Any, rows: Sequence[tuple[list[int], bool]], prefix: str = "") -> list[Result]:
    """Decode the rows."""
    return [
        Result(prefix + tokenizer.decode(ids, skip_special_tokens=True), len(ids), "stop" if has_end else "length")
        for ids, has_end in rows
    ]


def ids_of(value: int | Sequence[int] | None) -> list[int]:
    """Return the token ids that end a text. Configs give one, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
