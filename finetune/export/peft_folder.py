"""Folders of adapters for peft, of kinds that diffusers does not load."""

import json
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
from finetune.models.family import Components, ModelFamily, Network
from finetune.replaced_folder import replace_folder


def save_peft_folders(
    family: ModelFamily,
    components: Components,
    configs: Mapping[str, PeftConfig],
    state: Mapping[str, Tensor],
    folder: Path,
) -> Path:
    """Write FOLDER/unet (and FOLDER/text_encoder) for peft, in float32; return FOLDER.
    `PeftModel.from_pretrained(pipeline.unet, ...)` reads them."""
    names = pipeline_names(family.pipeline(components), components)
    temporary = unfinished(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for part, config in configs.items():
            trained = {key: value for key, value in state.items() if split_name(key)[0] == part}
            tensors = {peft_name(key): value.float().contiguous() for key, value in trained.items()}
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
    network = Network(family, components.denoiser, components.text_encoders)
    for part, name in pipeline_names(family.pipeline(components), components).items():
        if (folder / name).is_dir():
            PeftModel.from_pretrained(network.get_submodule(part), str(folder / name))


def peft_name(key: str) -> str:
    """Return a weight's name in peft's files: denoiser.a.oft_R.default.weight -> base_model.model.a.oft_R.weight."""
    return f"base_model.model.{split_name(key)[1]}".replace(".default", "")


def config_text(config: PeftConfig) -> str:
    """Return adapter_config.json, with sets in order. The same run writes the same file."""
    fields = config.to_dict() | {"inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"
