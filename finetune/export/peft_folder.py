"""Folders of adapters for peft, of kinds that diffusers does not load."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from peft import PeftConfig, PeftModel
from torch import Tensor

from finetune.export.lora import pipeline_names
from finetune.export.single_file import not_written, split_name
from finetune.files import unfinished
from finetune.models.family import Components, ModelFamily
from finetune.replaced_folder import replace_folder


def save_peft_folders(
    family: ModelFamily,
    components: Components,
    configs: Mapping[str, PeftConfig],
    state: Mapping[str, Tensor],
    folder: Path,
) -> Path:
    """Write FOLDER/unet (and FOLDER/text_encoder) for peft, in float32; return FOLDER.

    `PeftModel.from_pretrained(pipeline.unet, ...)` reads them.
    """
    names = pipeline_names(family.pipeline(components), components)
    temporary = unfinished(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for part, config in configs.items():
            tensors = {
                peft_name(key): value.float().contiguous() for key, value in state.items() if belongs_to(part, key)
            }
            own = temporary / names[part]
            own.mkdir(parents=True)
            (own / "adapter_config.json").write_text(config_text(config), encoding="utf-8")
            safetensors.torch.save_file(tensors, own / "adapter_model.safetensors", {"format": "pt"})
        replace_folder(temporary, folder)
    except (safetensors.SafetensorError, OSError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise not_written(folder, sum(value.numel() for value in state.values()) * 4, error) from error
    return folder


def load_peft_folders(family: ModelFamily, components: Components, folder: Path) -> None:
    """Load a folder's adapters into the components, as a user would."""
    parts = {name: part for part, name in pipeline_names(family.pipeline(components), components).items()}
    for name in sorted(name for name in os.listdir(folder) if name in parts):
        module = components.denoiser if parts[name] == "denoiser" else components.text_encoders[number_of(parts[name])]
        PeftModel.from_pretrained(module, str(folder / name))


def number_of(part: str) -> int:
    """Return the number of text_encoders.0, text_encoders.1, ..."""
    return int(part.rpartition(".")[2])


def belongs_to(part: str, key: str) -> bool:
    """Check whether a weight's name in `Network` belongs to the part."""
    return split_name(key)[0] == part


def peft_name(key: str) -> str:
    """Return a weight's name in peft's files: denoiser.a.oft_R.default.weight -> base_model.model.a.oft_R.weight."""
    return f"base_model.model.{split_name(key)[1]}".replace(".default", "")


def config_text(config: PeftConfig) -> str:
    """Return adapter_config.json, with sets in order. The same run writes the same file."""
    fields = config.to_dict() | {"inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"
