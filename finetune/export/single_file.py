"""Names, number formats and writing of single files for other tools. ComfyUI, A1111, Forge and sd-scripts read them."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from finetune.export.metadata import with_hashes
from finetune.files import put_in_place, unfinished
from finetune.models.family import ModelFamily
from finetune.models.interfaces import Denoiser

Dtype = Literal["fp16", "bf16", "fp32"]

ModelDtype = Literal["fp16", "bf16", "fp32", "fp8"]
"""Formats of a whole model in one file. fp8 is e4m3 without scales, for weights of the denoiser's layers alone."""

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""diffusers prefers this name among several files, so `load_lora_weights(FOLDER)` is enough."""


def write_single_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Path:
    """Write the tensors with metadata and hashes. The file is complete or absent."""
    if path.name == DIFFUSERS_FILE:
        raise ValueError(f"output.name: {path.stem} is the name of the diffusers file; choose another one.")
    return write_tensors(tensors, with_hashes(metadata, tensors), path)


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Path:
    """Write a safetensors file, complete or absent, and return its path."""
    data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()}, dict(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise not_written(path, len(data), error) from error
    return put_in_place(temporary, path)


def single_file_name(family: ModelFamily, denoiser: Denoiser, part: str, module: str) -> str:
    """Return a layer's name in the single file, e.g. lora_unet_mid_block_attentions_0_proj_in."""
    name = family.single_file_layer(denoiser, module).name if part == "denoiser" else published_name(part, module)
    return f"{family.kohya_prefixes[part]}_{name.replace('.', '_')}"


def published_name(part: str, module: str) -> str:
    """Return the layer's name in published files. CLIP's are under `text_model`, a level that transformers 5 dropped.
    Other tools look for that level, and diffusers removes it where the text encoder has none."""
    inside_clip = part.startswith("text_encoders.") and module.startswith("encoder.layers.")
    return f"text_model.{module}" if inside_clip else module


def split_name(name: str) -> tuple[str, str]:
    """Split a name in `Network` into part and module. text_encoders.0.a.b is text_encoders.0, a.b."""
    level = 2 if name.startswith("text_encoders.") else 1
    parts = name.split(".")
    return ".".join(parts[:level]), ".".join(parts[level:])


def cast_in_range(weight: Tensor, dtype: Dtype, name: str, option: str = "output.dtype") -> Tensor:
    """Return the weight in the file's dtype. One too large for it is refused."""
    result = weight.to(DTYPES[dtype]).contiguous()
    if not bool(result.isfinite().all()):
        largest = float(weight.abs().max())
        raise ValueError(f"{option}: {name} reaches {largest:.3g}, too large for {dtype}. Use --{option} bf16 or fp32.")
    return result


def not_written(path: Path, num_bytes: int, error: Exception) -> OSError:
    """Return an OSError with the path, bytes needed and bytes free."""
    free = shutil.disk_usage(path.parent).free
    number = error.errno if isinstance(error, OSError) and error.errno is not None else errno.EIO
    is_unknown = not isinstance(error, OSError) or error.errno is None
    if "No space left" in str(error) or (is_unknown and free < num_bytes):
        number = errno.ENOSPC
    return OSError(
        number,
        f"the export {path} could not be written: {os.strerror(number)} ({errno.errorcode[number]}); it needs about "
        f"{num_bytes:,} bytes and {free:,} are free. The checkpoints are unchanged. Make room and run the same command "
        "again.",
    )
