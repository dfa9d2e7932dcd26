"""Files of adapters and tokens of a training run, compared."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from finetune.export.lora import KEY, LoRALayer, lora_layers, save_diffusers_lora, save_kohya_lora
from finetune.export.lycoris import KEY as LYCORIS_KEY
from finetune.export.lycoris import save_lycoris
from finetune.export.single_file import DTYPES, Dtype
from finetune.export.tokens import save_tokens
from finetune.lora_files.convert import LARGEST, compare, empty_network
from finetune.methods.base import TrainedModel
from finetune.methods.lora.adapters import layer_scales
from finetune.methods.lora.export import metadata_of
from finetune.methods.tokens import token_embeddings
from finetune.optim.build import evaluation_weights
from finetune.optim.ema import trained_state
from finetune.optim.sharded import whole
from finetune.processes.ranks import ranks
from finetune.run.saving.facts import run_facts
from finetune.session import Session


def exported_state(session: Session) -> dict[str, Tensor]:
    """Copy the weights of an export to the CPU in float32. They are averages if there are any. Where the network is
    sharded all processes take part, and the main one gets them."""
    tuned = session.tuned
    with contextlib.nullcontext() if tuned.ema else evaluation_weights(tuned.optimizer, session.run.config.optim):
        weights = tuned.ema.settled() if tuned.ema else trained_state(tuned.network)
        found: dict[str, Tensor] = {}
        for name, value in weights.items():
            gathered = whole(value)
            if ranks().keeps_result:
                found[name] = gathered.to("cpu", torch.float32, copy=True)
        return found


def write_adapter_files(session: Session, state: Mapping[str, Tensor], step: int, folder: Path) -> float:
    """Write the small files of a step; return the largest relative difference.

    LoRA has diffusers' file and the single file of other programs, LoHa and LoKr have the latter, tokens a folder.
    LoRA layers are read again for the difference. Raises ValueError where a file does not hold what was trained.
    """
    run, network = session.run, session.tuned.network
    embeddings = token_embeddings(network)
    rows = {f"{name}.rows" for name in embeddings}
    adapters = {name: value for name, value in state.items() if name not in rows}
    path = folder / f"{run.config.output.export_name}-{step:06d}.safetensors"
    largest = 0.0
    if adapters and not session.model.alters_weights:
        if all(KEY.fullmatch(name) for name in adapters):
            largest = write_lora(session, lora_layers(adapters, layer_scales(network)), step, path)
        elif all(LYCORIS_KEY.fullmatch(name) for name in adapters):
            save_lycoris(
                *(run.family, session.components.denoiser, adapters, layer_scales(network)),
                metadata={"ss_steps": str(step)},
                dtype="fp32",
                path=path,
            )
    if embeddings:
        write_tokens(session, state, folder)
    return largest


def write_lora(session: Session, layers: list[LoRALayer], step: int, path: Path) -> float:
    """Write LoRA for diffusers, and as one file. DoRA has none, since other programs read it differently. Layers are
    compared by their changes of the weights, without the base model."""
    run, dtype = session.run, session.run.config.output.dtype
    file = save_diffusers_lora(run.family, session.components, layers, path.parent)
    if any(layer.magnitude is not None for layer in layers):
        return 0.0
    config = getattr(run.config, "lora")  # noqa: B009  (recipes without adapters lack the section)
    trained = TrainedModel(
        *(run.family, run.source, session.components, session.tuned.network, session.model.objective),
        *({}, run.config, run_facts(session, step)),
    )
    metadata = metadata_of(config, trained, layers)
    save_kohya_lora(run.family, session.components.denoiser, layers, metadata=metadata, dtype=dtype, path=path)
    by_name = {f"{layer.part}.{layer.module}": layer for layer in layers}
    with torch.random.fork_rng(devices=[]):
        network = empty_network(replace(run.source, is_empty=True), run.config.model.family)
    compare(path, {name: in_format(layer, dtype) for name, layer in by_name.items()}, network, LARGEST[dtype])
    return max(compare(file, by_name, network, LARGEST["fp32"]), compare(path, by_name, network, math.inf))


def in_format(layer: LoRALayer, dtype: Dtype) -> LoRALayer:
    """Round a layer as a file does. The first steps' changes may be smaller than what fp16 tells apart."""
    down, up = layer.down.to(DTYPES[dtype]).float(), layer.up.to(DTYPES[dtype]).float()
    return replace(layer, down=down, up=up)


def write_tokens(session: Session, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write the new tokens of a step. Each file is read again, bit for bit."""
    tokens = getattr(session.run.config, "tokens")  # noqa: B009  (recipes without tokens lack the section)
    tables = [state[f"{name}.rows"].split(tokens.num_vectors) for name in token_embeddings(session.tuned.network)]
    vectors = dict(zip(tokens.names, zip(*tables, strict=True), strict=True))
    written = save_tokens(session.run.family, vectors, {name: {} for name in vectors}, folder / "embeddings")
    for path, name in written.items():
        for rows in safetensors.torch.load_file(path).values():
            if not any(torch.equal(rows, part) for part in vectors[name]):
                raise ValueError(f"export: {path} does not hold the vectors of {name}. Do not use it, and report this.")
