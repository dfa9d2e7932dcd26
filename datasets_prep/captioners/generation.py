"""Loads transformers models for captions and turns what they generate into results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets_prep.captioners.base import Result
from datasets_prep.captioners.model_files import ModelFiles
from datasets_prep.config import CaptionsConfig
from finetune.plurals import plural

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "early_stopping": False,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}
"""The likeliest token each time, so that the same picture gets the same caption; models' own settings often sample."""


def dtype_name(config: CaptionsConfig) -> str:
    """Returns the precision that the model runs in."""
    return config.dtype if config.dtype != "auto" else ("bfloat16" if device_name() == "cuda" else "float32")


def device_name() -> str:
    """Returns where models run: on the first CUDA device, else on the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(model_class: Any, files: ModelFiles, config: CaptionsConfig) -> Any:
    """Returns the model of a transformers class, ready to generate, on its device; ValueError where its files lack
    weights, which would be random."""
    import torch

    dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype_name(config)]
    model, report = load_part(model_class.from_pretrained, files, dtype=dtype, output_loading_info=True)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"captions.model: {files.model} lacks {plural(len(missing), 'weight')} of a {type(model).__name__}, e.g. "
            f"{missing[0]}. Download it again, or name another model."
        )
    return model.to(device_name()).eval()


def load_part(from_pretrained: Callable[..., Any], files: ModelFiles, **options: Any) -> Any:
    """Returns a model or its processor from a folder or the Hub; never runs code that comes with it."""
    try:
        return from_pretrained(files.model, revision=files.revision or "main", trust_remote_code=False, **options)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # what files of another kind give rise to
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"captions.model: {files.model} cannot be loaded ({type(error).__name__}: {reason}). Check that it is "
            "complete and made for transformers' own classes."
        ) from error


def generate(
    model: Any, inputs: Mapping[str, Any], max_new_tokens: int, eos_ids: Sequence[int], num_given: int
) -> list[tuple[list[int], bool]]:
    """Returns the new token ids of every row without what ends it, and whether the model ended it.

    `num_given` tokens at the start of the rows are not the model's.
    """
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
    """Returns the rows as text."""
    return [
        Result(prefix + tokenizer.decode(ids, skip_special_tokens=True), len(ids), "stop" if has_end else "length")
        for ids, has_end in rows
    ]


def ids_of(value: int | Sequence[int] | None) -> list[int]:
    """Returns the ids that end a text, which configs give as one, several or none."""
    if value is None:
        return []
    return [value] if isinstance(value, int) else list(value)
