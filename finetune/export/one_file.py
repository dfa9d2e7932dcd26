"""A whole model as one file in its first published layout.

The file is reloaded and compared. ComfyUI, A1111, Forge and sd-scripts read it. ModelSpec 1.0.1: https://github.com/Stability-AI/ModelSpec.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from diffusers import ConfigMixin
from safetensors import SafetensorError
from torch import Tensor, nn

from finetune.export.fused import Places, stacked
from finetune.export.pipeline import EXACT, ROUNDING, num_bytes, outputs
from finetune.export.pipeline import cast as cast_components
from finetune.export.single_file import DTYPES, ModelDtype, not_written
from finetune.export.verify import errors_only, relative_difference
from finetune.files import put_in_place, unfinished
from finetune.models.family import Components, ModelFamily
from finetune.models.interfaces import Denoiser, TextEncoder
from finetune.models.layer_names.ldm import autoencoder_weights, clip_weights, open_clip_weights
from finetune.models.loading.file_names import under_name
from finetune.models.loading.marks import V_KEY, ZERO_SNR_KEY
from finetune.objectives.diffusion import Diffusion, Objective

Say = Callable[[str], None]


def save_one_file(
    family: ModelFamily,
    components: Components,
    objective: Objective,
    *,
    dtype: ModelDtype,
    path: Path,
    say: Say = print,
) -> float:
    """Write the file; return what its number format costs, relative.

    It gets its name only after diffusers' `from_single_file` has reloaded it, and the outputs of denoiser and decoder
    have been compared. Raises ValueError where they differ beyond rounding; nothing is written then.
    """
    rounded = in_fp8(components) if dtype == "fp8" else cast_components(components, DTYPES[dtype])
    temporary = unfinished(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        tensors = {**original_weights(family, rounded), **marks(objective)}
        safetensors.torch.save_file(own_memory(tensors), temporary, model_metadata(family, components, objective, path))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise not_written(path, num_bytes(rounded), error) from error
    try:
        return verified(family, components, rounded, temporary, path, dtype, say)
    finally:
        temporary.unlink(missing_ok=True)


def verified(
    family: ModelFamily,
    components: Components,
    rounded: Components,
    temporary: Path,
    path: Path,
    dtype: ModelDtype,
    say: Say,
) -> float:
    """Compare the reloaded file, and give it its name."""
    reference, trained = (outputs(family, cast_components(each, torch.float32)) for each in (rounded, components))
    rounding = max(map(relative_difference, trained, reference))
    exact = 0.0
    if family.diffusers_reads_original(components.denoiser):
        reloaded = by_diffusers(family, rounded, temporary, say)
        exact = max(map(relative_difference, reference, outputs(family, reloaded)))
    else:
        say(f"warning: {path.name}: diffusers reads no model of this width from one file, so it was not reloaded.")
    if not (exact <= EXACT and rounding <= ROUNDING[dtype]):
        raise ValueError(
            f"export: {path.name} does not reproduce the model: reloaded, its output differs by {exact:.2g} relative "
            f"from that of the weights in {dtype} (expected at most {EXACT:g}), and that by {rounding:.2g} "
            f"from the model's (expected at most {ROUNDING[dtype]:g}). Use --dtype fp32, or report this."
        )
    put_in_place(temporary, path)
    return rounding


def in_fp8(components: Components) -> Components:
    """Cast weights of the denoiser's layers to e4m3, all else to float16. Norms, biases and tables have
    few bytes and keep float16, as do the other parts. Raises ValueError where a weight is out of range."""
    narrow = cast_components(components, torch.float16)
    for name, layer in cast_layers(components.denoiser):
        largest = float(layer.weight.detach().abs().max())
        if not largest <= torch.finfo(torch.float8_e4m3fn).max:  # a cast would cut it, or make it no number
            raise ValueError(
                f"dtype: {name} of the denoiser reaches {largest:.3g}, too large for fp8. Use --dtype fp16, bf16 or "
                "fp32."
            )
        weight = layer.weight.detach().to("cpu", torch.float8_e4m3fn)
        narrow.denoiser.get_submodule(name).register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    return narrow


def cast_layers(denoiser: Denoiser) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield the layers whose weights other programs cast to fewer bits."""
    for name, layer in denoiser.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield name, layer


def original_weights(family: ModelFamily, components: Components) -> dict[str, Tensor]:
    """Return all weights under their first published names."""
    found: dict[str, Tensor] = {}
    joined: dict[str, Places] = {}
    state = components.denoiser.state_dict()
    for name in state:
        place = family.original_weight(components.denoiser, name)
        joined.setdefault(place.name, {})[name] = place
    for name, places in joined.items():
        found[f"model.diffusion_model.{name}"] = stacked(places, state)
    for name, weight in autoencoder_weights(components.vae.state_dict()).items():
        found[f"{family.original_vae}{name}"] = weight
    starts = family.original_text_starts(components.text_encoders)
    for start, encoder in zip(starts, components.text_encoders, strict=True):
        rename = open_clip_weights if start.endswith(".model.") else text_weights
        found |= {f"{start}{name}": weight for name, weight in rename(encoder.state_dict()).items()}
    return found


def text_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of CLIP or T5 as transformers names them."""
    is_clip = any(name.endswith("position_embedding.weight") for name in weights)
    return clip_weights(weights) if is_clip else dict(weights)


def own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory or are not contiguous. A file cannot have either."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone().contiguous() if place in seen and value.numel() else value.contiguous()
        seen.add(place)
    return found


def marks(objective: Objective) -> dict[str, Tensor]:
    """Return the empty tensors that mark v-prediction and zero terminal SNR."""
    found: dict[str, Tensor] = {}
    if isinstance(objective, Diffusion) and objective.prediction_type == "v_prediction":
        found[V_KEY] = torch.empty(0)
        if objective.options.zero_terminal_snr:
            found[ZERO_SNR_KEY] = torch.empty(0)
    return found


def model_metadata(family: ModelFamily, components: Components, objective: Objective, path: Path) -> dict[str, str]:
    """Return the ModelSpec fields of a whole model."""
    spec = family.model_spec(components, objective)
    own = {key: value.removesuffix("/lora") for key, value in spec.items() if key.startswith("modelspec.")}
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": family.implementation,
        "modelspec.title": path.stem,
        "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"),
        **own,
    }


def by_diffusers(family: ModelFamily, components: Components, file: Path, say: Say) -> Components:
    """Reload a file with `from_single_file`, with the model's own configs. Its parts are float32 on the CPU."""
    pipeline = family.pipeline(components)
    with tempfile.TemporaryDirectory() as folder, errors_only():
        save_configs(pipeline, Path(folder))
        single = Path(folder) / "model.safetensors"
        under_name(file, single)
        optional = {name: None for name, part in pipeline.components.items() if part is None}
        loaded = type(pipeline).from_single_file(
            str(single), config=folder, local_files_only=True, torch_dtype=torch.float32, **optional
        )
    parts = {id(part): name for name, part in pipeline.components.items()}
    denoiser, vae, *encoders = (
        loaded.components[parts[id(part)]] for part in (components.denoiser, components.vae, *components.text_encoders)
    )
    for number, (encoder, own) in enumerate(zip(encoders, components.text_encoders, strict=True)):
        if restore_projection(encoder, own):
            say(
                f"warning: text encoder {number + 1} has a projection of its own, which ComfyUI reads; diffusers' "
                "from_single_file puts the identity there."
            )
    return replace(components, denoiser=denoiser, vae=vae, text_encoders=tuple(cast("list[TextEncoder]", encoders)))


@torch.no_grad()
def restore_projection(encoder: nn.Module, own: nn.Module) -> bool:
    """Put a text encoder's projection back where diffusers replaced it. Returns False where it did not."""
    projection = dict(encoder.named_parameters()).get("text_projection.weight")
    if projection is None or not torch.equal(projection, torch.eye(len(projection))):
        return False
    wanted = own.get_parameter("text_projection.weight").to(projection.dtype)
    projection.copy_(wanted)
    return not torch.equal(wanted, torch.eye(len(projection)))


def save_configs(pipeline: Any, folder: Path) -> None:
    """Write a pipeline's configs, tokenizers and scheduler without weights."""
    pipeline.save_config(folder)
    for name, part in pipeline.components.items():
        if part is None:
            continue
        target = folder / name
        if isinstance(part, ConfigMixin):  # of diffusers
            part.save_config(target)
        else:
            (cast("TextEncoder", part).config if isinstance(part, nn.Module) else part).save_pretrained(target)
