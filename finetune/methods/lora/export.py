"""Files of each kind of adapter, with metadata, reloaded and compared."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from finetune.config.lora import LoRAConfig
from finetune.export.lora import (
    LoRALayer,
    lora_layers,
    relative_to_base,
    save_diffusers_lora,
    save_kohya_lora,
    single_alpha,
)
from finetune.export.lycoris import save_differences, save_lycoris
from finetune.export.metadata import lora_metadata
from finetune.export.peft_folder import save_peft_folders
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import (
    base_model,
    diffusers_reads_single_file,
    prediction,
    reloaded_differences,
    require_equal,
)
from finetune.lora_files.layers import weights_sha256
from finetune.methods.base import TrainedModel
from finetune.methods.lora.adapters import adapter_layers, attach_adapters, block_size, layer_scales, merged_differences
from finetune.models.family import Network
from finetune.optim.ema import load_trained_state, trained_state

logger = logging.getLogger(__name__)

PEFT_FOLDER = "peft"


def export_adapters(config: LoRAConfig, model: TrainedModel, folder: Path) -> dict[Path, float]:
    """Write the adapters' files; return the largest difference of each. It compares the output with the reloaded file
    and that of the trained weights."""
    family, source = model.family, model.source
    trains_text = model.config.train.text_encoder
    with torch.random.fork_rng(devices=[]):
        components, prompts = base_model(family, source, text_encoders=trains_text)
    network = Network.from_components(family, components, text_encoder=trains_text)
    configs = attach_adapters(network, config, model.config.seed)
    start = {name: value.clone() for name, value in trained_state(network).items()}
    load_trained_state(network, model.state)
    trained = prediction(family, components, prompts)
    expected = {name for name, _ in adapter_layers(network)}

    path = folder / f"{model.config.output.export_name}.safetensors"
    dtype = model.config.output.dtype
    if config.kind == "lora":
        scales = layer_scales(network)
        layers = lora_layers(model.state, scales)
        if config.init in ("pissa", "olora"):
            layers = relative_to_base(layers, lora_layers(start, scales))
        paths = [save_diffusers_lora(family, model.components, layers, folder)]
        metadata = metadata_of(config, model, layers)
        if not config.dora:
            paths.append(save_kohya_lora(family, network.denoiser, layers, metadata=metadata, dtype=dtype, path=path))
            if not diffusers_reads_single_file(family, components, expected):
                logger.warning(
                    "export: diffusers reads not all of %s; load %s there. The other programs read both or the first.",
                    path.name,
                    DIFFUSERS_FILE,
                )
    else:
        logger.warning(
            "export: diffusers' load_lora_weights reads no %s on this model; load export/%s with peft.",
            config.kind,
            PEFT_FOLDER,
        )
        paths = [save_peft_folders(family, model.components, configs, model.state, folder / PEFT_FOLDER)]
        metadata = metadata_of(config, model, [])
        if config.kind != "oft":
            scales = layer_scales(network)
            paths.append(
                save_lycoris(family, network.denoiser, model.state, scales, metadata=metadata, dtype=dtype, path=path)
            )
    if config.dora or config.kind == "oft":
        differences = merged_differences(network)
        paths.append(save_differences(family, network.denoiser, differences, metadata=metadata, dtype=dtype, path=path))
    del network, components
    found = reloaded_differences(family, source, trained, expected, paths, text_encoders=trains_text)
    require_equal(found)
    return found


def metadata_of(config: LoRAConfig, model: TrainedModel, layers: Sequence[LoRALayer]) -> dict[str, str]:
    """Return the metadata of the single file. `layers` are those of a file in sd-scripts' layout."""
    same_rank, same_alpha = not config.rank_pattern, not config.alpha_pattern
    rank = config.rank if same_rank and config.kind != "oft" else None
    alpha = (config.alpha or rank) if same_alpha else None
    if layers:
        ranks = {layer.rank for layer in layers}
        rank = ranks.pop() if len(ranks) == 1 else None
        alpha = single_alpha(layers)
    network: dict[str, object] = {
        "ss_network_module": "networks.lora" if config.kind == "lora" and not config.dora else "lycoris.kohya",
        "ss_network_dim": "Dynamic" if rank is None else rank,
        "ss_network_alpha": "Dynamic" if alpha is None else alpha,
        "ss_network_dropout": config.dropout,
    }
    if config.start is not None:
        network |= {"ss_start_weights": config.start.name, "ss_start_sha256": weights_sha256(config.start)}
    if arguments := network_args(config, rank, alpha):
        network["ss_network_args"] = json.dumps({key: str(value) for key, value in arguments.items()})
    model_spec = model.family.model_spec(model.components, model.objective)
    return lora_metadata(model.config, model.facts, model.objective.options, network, model_spec)


def network_args(config: LoRAConfig, rank: int | None, alpha: float | None) -> dict[str, str | int | float | bool]:
    """Return the arguments of the network's module. They have its names where it has them, else those of LoRAConfig."""
    found: dict[str, str | int | float | bool] = {}
    if config.dora or config.kind == "oft":
        found |= {"algo": "full", "trained_as": "dora" if config.dora else f"oft block_size={block_size(config)}"}
    elif config.kind != "lora":
        found |= {"algo": config.kind} | ({"factor": config.factor} if config.kind == "lokr" else {})
    if config.conv and rank is not None and alpha is not None:
        found |= {"conv_dim": rank, "conv_alpha": alpha}
    if config.plus_ratio != 1:
        found["loraplus_lr_ratio"] = config.plus_ratio
    if config.init != "default":
        found["init"] = config.init
    if config.rslora:
        found["rslora"] = True
    for name, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        if patterns:
            found[name] = " ".join(patterns)
    return found
