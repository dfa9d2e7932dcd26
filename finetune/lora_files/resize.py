"""A file of LoRA (arXiv 2106.09685) at another rank."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from finetune.config.new_outputs import new_output_problems
from finetune.export.single_file import DTYPES, Dtype, cast_in_range, write_single_file, write_tensors
from finetune.lora_files.options import MERGE_FIRST, Keep
from finetune.lora_files.show import read
from finetune.lora_files.truncate import truncated
from finetune.plurals import first_few, plural
from finetune.sampling.adapter_notes import DIFFUSERS_METADATA, diffusers_scale, notes_of
from finetune.sampling.adapter_pieces import piece_of, refuse_malformed
from finetune.sampling.other_files import other_kind
from finetune.sampling.weight_changes import refuse_not_finite

KINDS = {
    "dora_scale": "DoRA",
    "hada": "LoHa",
    "lokr": "LoKr",
    "lora_mid": "LoRA in three matrices",
    "diff": "weight differences",
    "scalar": "LoRA with scalars",
}
"""Other kinds by the beginnings of their pieces."""


@dataclass(frozen=True)
class ResizeOptions:
    """Options of the command line. One of rank and energy is given."""

    file: Path
    output: Path
    rank: int | None = None
    energy: float | None = None
    """Share of each layer's squared singular values that is kept; ranks then differ between layers."""
    dtype: Keep = "same"


@dataclass(frozen=True)
class Pair:
    """The two matrices of a layer, with their names in the file."""

    down_key: str
    up_key: str
    alpha_key: str | None
    down: Tensor
    """[r inputs ...]."""
    up: Tensor
    """[outputs r ...]."""
    scale: float
    """alpha / r."""


def resize(options: ResizeOptions, say: Callable[[str], None] = print) -> Path:
    """Write the file at its new rank, in the same layout. Raises ValueError for files that are not plain LoRA."""
    refuse(options)
    tensors, metadata = read(options.file)
    pairs = pairs_of(options.file, tensors, metadata)
    resized: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    kept: list[float] = []
    for name, pair in pairs.items():
        down, up, share = truncated(pair.down, pair.up, pair.scale, options.rank, options.energy)
        dtype = pair.up.dtype if options.dtype == "same" else DTYPES[options.dtype]
        known = dtype_name(dtype)
        resized[pair.down_key], resized[pair.up_key] = (
            cast_in_range(part, known, name, "dtype") for part in (down, up)
        )
        if pair.alpha_key is not None:
            resized[pair.alpha_key] = torch.tensor(float(down.shape[0]))
        ranks[name] = down.shape[0]
        kept.append(share)
    has_hashes = any(pair.alpha_key is not None for pair in pairs.values())  # of sd-scripts, in its layout alone
    write = write_single_file if has_hashes else write_tensors
    write(resized, new_metadata(metadata, ranks), options.output)
    before = sorted({pair.down.shape[0] for pair in pairs.values()})
    after = sorted(set(ranks.values()))
    say(
        f"{options.output}: {plural(len(pairs), 'layer')}, rank {spread(before)} -> {spread(after)}; of a layer's "
        f"change {statistics.median(kept):.1%} is left in the median, {min(kept):.1%} at least (of its squared norm)."
    )
    return options.output


def dtype_name(dtype: torch.dtype) -> Dtype:
    """Name a number format. Rare ones become float32."""
    return "fp16" if dtype == torch.float16 else "bf16" if dtype == torch.bfloat16 else "fp32"


def refuse(options: ResizeOptions) -> None:
    """Raise ValueError for contradictory options."""
    if (options.rank is None) == (options.energy is None):
        raise ValueError("rank: expected one of --rank N and --energy SHARE. Give one of them.")
    if options.rank is not None and options.rank < 1:
        raise ValueError(f"rank: got {options.rank}, expected 1 or more.")
    if options.energy is not None and not 0 < options.energy <= 1:
        raise ValueError(f"energy: got {options.energy}, expected a share above 0, up to 1.")
    for problem in new_output_problems(options.output, "a new file"):
        raise ValueError(problem)
    if options.output.suffix != ".safetensors":
        raise ValueError(f"output: got {options.output}, expected a name that ends with .safetensors.")


def pairs_of(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Pair]:
    """Find the layers' matrices. Raises ValueError where the file has anything else."""
    refuse_malformed(path, tensors)
    grouped: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for key in tensors:
        placed = piece_of(key)
        if placed is None or placed[1] not in ("lora_down.weight", "lora_up.weight", "alpha"):
            others.append(key)
        else:
            grouped.setdefault(placed[0], {})[placed[1]] = key
    lacking = [name for name, keys in grouped.items() if not {"lora_down.weight", "lora_up.weight"} <= set(keys)]
    if others or lacking or not grouped:
        raise ValueError(not_plain(path, tensors, sorted(others) or sorted(lacking)))
    refuse_not_finite(path, tensors)
    scales = diffusers_scale(metadata)
    found: dict[str, Pair] = {}
    for name, keys in grouped.items():
        down, up = tensors[keys["lora_down.weight"]], tensors[keys["lora_up.weight"]]
        if down.ndim < 2 or up.ndim < 2 or down.shape[0] != up.flatten(1).shape[1]:
            raise ValueError(
                f"file: {path.name}: the layer {name} is not complete: its matrices are {tuple(up.shape)} and "
                f"{tuple(down.shape)}. Copy the file again."
            )
        alpha = keys.get("alpha")
        scale = float(tensors[alpha]) / down.shape[0] if alpha else scales(name)
        found[name] = Pair(keys["lora_down.weight"], keys["lora_up.weight"], alpha, down, up, scale)
    return found


def not_plain(path: Path, tensors: Mapping[str, Tensor], names: list[str]) -> str:
    """Describe a file without a rank to change, with the way out."""
    text = (
        f"file: {path} is not a file of plain LoRA, which alone has a rank to change: "
        f"{first_few(names or ['no layers'])}."
    )
    if (other := other_kind(tensors)) is not None:
        return f"{text} It is {other[0]}. {other[1]}"
    pieces = {placed[1] for key in tensors if (placed := piece_of(key)) is not None}
    kinds = [kind for piece, kind in KINDS.items() if any(own.startswith(piece) for own in pieces)]
    if not kinds:
        return f"{text} Use another file."
    return f"{text} It has {kinds[0]}. {MERGE_FIRST}"


def new_metadata(metadata: Mapping[str, str], ranks: Mapping[str, int]) -> dict[str, str]:
    """Update what metadata say of ranks. Every alpha is now the layer's rank."""
    found = {key: value for key, value in metadata.items() if key != DIFFUSERS_METADATA}
    same = len(set(ranks.values())) == 1
    rank = str(next(iter(ranks.values()))) if same else "Dynamic"
    if "ss_network_dim" in found:
        found |= {"ss_network_dim": rank, "ss_network_alpha": rank}
    if DIFFUSERS_METADATA in metadata:
        noted = notes_of(metadata)
        for part in {name.partition(".")[0] for name in ranks}:
            own = {name.partition(".")[2]: value for name, value in ranks.items() if name.startswith(f"{part}.")}
            first = next(iter(own.values()))
            others = {f"^{layer}": value for layer, value in own.items() if value != first}
            noted |= {f"{part}.r": first, f"{part}.lora_alpha": first}
            noted |= {f"{part}.rank_pattern": others, f"{part}.alpha_pattern": others}
        found[DIFFUSERS_METADATA] = json.dumps(noted)
    return found


def spread(ranks: list[int]) -> str:
    """Show one rank, or the smallest and the largest."""
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
