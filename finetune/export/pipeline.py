"""A whole model as a pipeline folder, reloaded and compared first."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import safetensors
import torch
from torch import Tensor, nn

from finetune.export.single_file import DTYPES, Dtype, not_written
from finetune.export.tokenizer_files import SENTENCEPIECE, add_files_for_transformers_4
from finetune.export.verify import prediction, relative_difference
from finetune.files import unfinished
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.replaced_folder import replace_folder

Module = TypeVar("Module", bound=nn.Module)

EXACT = 1e-5
"""Largest relative difference of an output between the folder and the weights rounded to its dtype."""

ROUNDING = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 8e-2, "fp8": 0.5}
"""Largest relative difference of an output that rounding all weights to the dtype may cause.

One weight moves by up to 2^-11 (fp16) or 2^-8 (bf16) of its value. Small U-Nets with random weights gave 6e-4 and 5e-3;
the bounds allow deeper ones sixteen times that. In fp8 it moves by up to 2^-4, and below 2^-6 by up to 2^-10: half of
the output is where a file stops being that model.
"""


def save_full_pipeline(
    family: ModelFamily, components: Components, *, dtype: Dtype, folder: Path, source: ModelSource | None = None
) -> float:
    """Write FOLDER in diffusers layout; return the rounding's relative difference.

    The difference comes from `dtype`. `components` are not changed; their scheduler is written. The folder gets its
    name only after it has been reloaded and the outputs of its denoiser and decoder have been compared; an earlier one
    is replaced. Where the written weights differ from the given ones beyond rounding, or rounding costs more than
    ROUNDING allows, nothing is replaced and a ValueError names the difference. Files that can only be copied come from
    `source`, the model that was trained.
    """
    temporary = unfinished(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    rounded = cast(components, DTYPES[dtype])
    try:
        family.pipeline(rounded).save_pretrained(temporary, safe_serialization=True)
        tidy_configs(temporary)
        incomplete = add_files_for_transformers_4(temporary, source)
    except (safetensors.SafetensorError, OSError) as error:
        shutil.rmtree(temporary)
        raise not_written(folder, num_bytes(rounded), error) from error
    reference = outputs(family, cast(rounded, torch.float32))
    reloaded = outputs(family, family.load(ModelSource(str(temporary))))
    trained = outputs(family, cast(components, torch.float32))
    rounding = max(map(relative_difference, trained, reference))
    exact = max(map(relative_difference, reference, reloaded))
    if not (exact <= EXACT and rounding <= ROUNDING[dtype]):
        shutil.rmtree(temporary)
        raise ValueError(
            f"export: {folder.name} does not reproduce the trained model: its output differs by {exact:.2g} relative "
            f"from that of the weights in {dtype} (expected at most {EXACT:g}), and that by {rounding:.2g} from the "
            f"trained weights' (expected at most {ROUNDING[dtype]:g}). Run the same command with --output.dtype fp32; "
            "the checkpoints hold all that was trained."
        )
    replace_folder(temporary, folder)
    if incomplete:
        print(
            f"warning: export: {', '.join(incomplete)} of {folder}: no {SENTENCEPIECE}, since the base model has none. "
            "Programs that read tokenizer.json are not affected."
        )
    return rounding


def tidy_configs(folder: Path) -> None:
    """Make all parts load in one dtype, and remove their origins. transformers 5 follows the dtype in a part's config,
    diffusers' own classes always use float32, and a pipeline of both kinds fails at its first step. The origin of a
    part is a path of the machine that it was trained on."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        if "dtype" in config:
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def outputs(family: ModelFamily, components: Components) -> tuple[Tensor, Tensor]:
    """Return the outputs of denoiser and decoder for fixed noise. Parts are float32 on the CPU."""
    predicted = prediction(family, components)
    latents = torch.randn(predicted.shape, generator=torch.Generator().manual_seed(1))
    return predicted, components.vae.eval().decode(latents).sample


def cast(components: Components, dtype: torch.dtype) -> Components:
    """Return the components on the CPU with weights in `dtype`. Weights that already have it are shared, not copied."""
    return replace(
        components,
        denoiser=cast_module(components.denoiser, dtype),
        vae=cast_module(components.vae, dtype),
        text_encoders=tuple(cast_module(encoder, dtype) for encoder in components.text_encoders),
    )


def cast_module(module: Module, dtype: torch.dtype) -> Module:
    """Return a module with cast weights, without copying the originals."""
    weights: dict[int, Tensor] = {}
    for parameter in module.parameters():
        weights[id(parameter)] = nn.Parameter(parameter.detach().to("cpu", dtype), requires_grad=False)
    for buffer in module.buffers():
        weights[id(buffer)] = buffer.to("cpu", dtype if buffer.is_floating_point() else buffer.dtype)
    return copy.deepcopy(module, weights)


def num_bytes(components: Components) -> int:
    """Return the size of all weights."""
    modules = (components.denoiser, components.vae, *components.text_encoders)
    return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())
