"""Recognise and survive running out of memory."""

import gc
import sys


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise errors of GPU (torch, onnxruntime) and RAM that is full."""
    text = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "failed to allocate", "alloc_failed", "smaller than requested")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(phrase in text for phrase in phrases)
    )


def release_memory() -> None:
    """Free what a failed attempt still holds."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
