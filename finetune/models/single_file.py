"""One file with the weights of all parts, in the layout that a model was first published in, read through diffusers.

Nothing is asked of the Hub: configs come from a local folder of the same base model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import single_file_utils
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.models.base import ModelSource
from finetune.models.stored import common_dtype, with_float32_buffers

PARTS = {
    "denoiser": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.", "vae."),
    "text encoder": ("cond_stage_model.", "conditioner.", "text_encoders."),
}
"""How the names of a part's weights begin, in all layouts that hold a whole model."""
DENOISERS = ("unet", "transformer")


def single_file_kind(source: ModelSource) -> str:
    """Returns what the file holds, as diffusers names it; ValueError for no whole model. Reads no weights."""
    path = Path(source.location)
    if not path.is_file():
        raise FileNotFoundError(f"model.source: no file {path}. Give a .safetensors file, a folder, or a Hub id.")
    shapes = weight_shapes(path)
    missing = [part for part, starts in PARTS.items() if not any(key.startswith(starts) for key in shapes)]
    if missing:
        what = (
            "It looks like an adapter (LoRA)" if any(".lora_" in key for key in shapes) else "It is not a whole model"
        )
        raise ValueError(
            f"model.source: the single file {path.name} holds no {' and no '.join(missing)}. {what}; give the file or "
            "folder of the base model with all of its parts."
        )
    return single_file_utils.infer_diffusers_model_type(shapes)


def weight_shapes(path: Path) -> dict[str, Tensor]:
    """Returns every weight of the file without its values."""
    try:
        with safe_open(path, framework="pt") as file:
            return {
                key: torch.empty(file.get_slice(key).get_shape(), device="meta")
                for key in file.keys()  # noqa: SIM118 (not a dict)
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"model.source: the single file {path.name} is no intact safetensors file ({error}). Download it again."
        ) from error


def published_folder(kind: str) -> str:
    """Returns the Hub id of the folder that diffusers takes the configs of such a file from."""
    return single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]


def weights_from_single_file(kind: Any, source: ModelSource, part: str) -> Any:
    """Returns one part on the CPU, in float32 or as the source says; ValueError where the file lacks a weight of it, or
    has more."""
    weights: Any = single_file_utils.load_single_file_checkpoint(source.location, local_files_only=True)
    options: dict[str, Any] = {"config": source.configs, "subfolder": part, "local_files_only": True}
    dtype = torch.float32
    if source.as_stored and part in DENOISERS:
        dtype = common_dtype((Path(source.location), start) for start in PARTS["denoiser"])
        options["torch_dtype"] = dtype
    if issubclass(kind, PreTrainedModel):
        model = single_file_utils.create_diffusers_clip_model_from_ldm(kind, weights, **options)
    else:
        try:
            model = kind.from_single_file(weights, **options)
        except NotImplementedError as error:  # diffusers leaves on the meta device what it has no weight for
            raise ValueError(f"the file lacks weights that {part}/config.json asks for.") from error
    refuse_other_weights(model, weights, part)
    return model.to(torch.float32) if dtype == torch.float32 else with_float32_buffers(model)


def refuse_other_weights(model: nn.Module, weights: Mapping[str, Tensor], part: str) -> None:
    """Raises ValueError where the model has weights that the file lacks; or the denoiser fewer than the file."""
    lacking = [name for name, value in model.state_dict().items() if value.is_meta]
    if lacking:
        raise ValueError(f"the file has no {lacking[0]}, nor {len(lacking) - 1} other weights that {part} has there.")
    held = [value for key, value in weights.items() if key.startswith(PARTS["denoiser"])]
    numbers, used = sum(value.numel() for value in held), sum(value.numel() for value in model.parameters())
    if part in DENOISERS and numbers != used:
        raise ValueError(f"the file holds {numbers:,} numbers for it, the model of that config has {used:,}.")
