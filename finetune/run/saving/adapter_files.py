"""Files of adapters and tokens of a training run, compared."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from finetune.config.lora import LoRAConfig
from finetune.export.fused import share
from finetune.export.lora import KEY, LoRALayer, lora_layers, save_diffusers_lora, save_kohya_lora
from finetune.export.lycoris import lycoris_layers, save_lycoris
from finetune.export.peft_folder import peft_name, save_peft_folders
from finetune.export.single_file import DTYPES, Dtype
from finetune.export.tokens import save_tokens
from finetune.lora_files.convert import LARGEST, checked_difference, compare, empty_network
from finetune.lora_files.layers import read_layers
from finetune.lora_files.names import adaptable_layers
from finetune.methods.base import TrainedModel
from finetune.methods.lora.adapters import attached_configs, layer_scales
from finetune.methods.lora.export import PEFT_FOLDER, metadata_of
from finetune.methods.tokens import token_embeddings
from finetune.models.family import Network
from finetune.optim.build import evaluation_weights
from finetune.optim.ema import trained_state
from finetune.optim.sharded import whole
from finetune.plurals import first_few
from finetune.processes.ranks import ranks
from finetune.run.saving.facts import run_facts
from finetune.sampling.adapter_files import file_changes
from finetune.sampling.weight_changes import change_of
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

    LoRA has diffusers' file and the single file of other programs; LoHa and LoKr have the latter and folders of peft,
    OFT the folders alone; tokens have a folder. All are read again. Raises ValueError where a file does not hold what
    was trained.
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
        else:
            largest = write_relatives(session, adapters, step, path)
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
    metadata = metadata_at(session, layers, step)
    save_kohya_lora(run.family, session.components.denoiser, layers, metadata=metadata, dtype=dtype, path=path)
    by_name = {f"{layer.part}.{layer.module}": layer for layer in layers}
    network = network_of_names(session)
    written = read_layers(path, network).layers
    rounded = {name: in_format(layer, dtype) for name, layer in by_name.items()}
    checked_difference(path, written, rounded, LARGEST[dtype])
    exact = checked_difference(path, written, by_name, math.inf)
    return max(compare(file, by_name, network, LARGEST["fp32"]), exact)


def write_relatives(session: Session, state: Mapping[str, Tensor], step: int, path: Path) -> float:
    """Write LoHa, LoKr or OFT; return the largest difference. All have folders for peft, the first two one file, too.
    Rotations have that at the end alone, where the base model's weights are at hand."""
    run, network, dtype = session.run, session.tuned.network, session.run.config.output.dtype
    config = lora_section(session)
    assert isinstance(network, Network), "autoencoders have no adapters"
    folder = save_peft_folders(
        run.family, session.components, attached_configs(network, config), state, path.parent / PEFT_FOLDER
    )
    require_same(folder, state)
    if config.kind == "oft":
        return 0.0
    scales = layer_scales(network)
    metadata = metadata_at(session, [], step)
    save_lycoris(run.family, session.components.denoiser, state, scales, metadata=metadata, dtype=dtype, path=path)
    return compare_lycoris(path, lycoris_layers(state, scales), network_of_names(session), dtype)


def require_same(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where folders of peft hold other weights than were trained."""
    written: list[tuple[str, Tensor]] = []
    for file in sorted(folder.glob("*/*.safetensors")):
        written += safetensors.torch.load_file(file).items()
    expected = sorted((peft_name(name), value) for name, value in state.items())
    if [name for name, _ in expected] != sorted(name for name, _ in written) or not all(
        any(torch.equal(value, other) for own, other in written if own == name) for name, value in expected
    ):
        raise ValueError(f"export: {folder} does not hold the weights that were trained. Do not use it; report this.")


def compare_lycoris(path: Path, layers: Mapping[str, Mapping[str, Tensor]], network: Network, dtype: Dtype) -> float:
    """Compare the changes in a file with the trained ones. Returns the largest relative difference. Raises
    ValueError where one is beyond the rounding to `dtype`, of which the smallest normal number is always part."""
    found = file_changes(network.family, network, adaptable_layers(network), path)
    largest, tiny = 0.0, torch.finfo(DTYPES[dtype]).smallest_normal
    if missing := {f"{name}.weight" for name in layers} - found.keys():
        raise ValueError(f"export: {path} lacks {first_few(sorted(missing))}. Do not use it, and report this.")
    for name, change in found.items():
        own = share(change.place, change_of(change.pieces)).flatten()
        pieces = layers.get(name.removesuffix(".weight"))
        rounded = exact = torch.zeros_like(own)
        if pieces is not None:  # else a layer that shares one of the file
            kept = {kind: value.to(DTYPES[dtype]).float() for kind, value in pieces.items() if kind != "alpha"}
            rounded = change_of({**kept, "alpha": pieces["alpha"]}).flatten()
            exact = change_of(pieces).flatten()
        worst = float((own - rounded).abs().max())
        if not worst <= LARGEST[dtype] * float(rounded.abs().max()) + tiny:
            raise ValueError(
                f"export: the change of {name} in {path} differs by {worst:.2g}. Do not use it; report this."
            )
        size = float(exact.norm())
        largest = max(largest, float((own - exact).norm()) / size if size else 0.0)
    return largest


def lora_section(session: Session) -> LoRAConfig:
    """Return the options of the adapters."""
    return getattr(session.run.config, "lora")  # noqa: B009  (recipes without adapters lack the section)


def metadata_at(session: Session, layers: Sequence[LoRALayer], step: int) -> dict[str, str]:
    """Return the metadata of a step's single file."""
    run = session.run
    trained = TrainedModel(
        *(run.family, run.source, session.components, session.tuned.network, session.model.objective),
        *({}, run.config, run_facts(session, step)),
    )
    return metadata_of(lora_section(session), trained, layers)


def network_of_names(session: Session) -> Network:
    """Build the model without weights, to find layers by names."""
    with torch.random.fork_rng(devices=[]):
        return empty_network(replace(session.run.source, is_empty=True), session.run.config.model.family)


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
