"""Transformers models, loaded whole or refused."""

from collections.abc import Callable
from typing import Any

from datasets_prep.config import CaptionsConfig
from datasets_prep.vision.model_files import ModelFiles
from finetune.plurals import plural

OF_OTHER_FILES = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What transformers raises for files of another kind."""


def dtype_name(config: CaptionsConfig) -> str:
    """Return the precision that the model runs in."""
    return config.dtype if config.dtype != "auto" else ("bfloat16" if device_name() == "cuda" else "float32")


def device_name() -> str:
    """Return where models run: the first CUDA device, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(model_class: Any, files: ModelFiles, config: CaptionsConfig) -> Any:
    """Load a transformers model onto its device, ready to generate. Raises ValueError where its files lack weights,
    which would be random."""
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
    """Load a model or its processor from a folder or the Hub. Code that comes with it is never run."""
    try:
        return from_pretrained(files.model, revision=files.revision or "main", trust_remote_code=False, **options)
    except OF_OTHER_FILES as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"captions.model: {files.model} cannot be loaded ({type(error).__name__}: {reason}). Check that it is "
            "complete and made for transformers' own classes."
        ) from error
