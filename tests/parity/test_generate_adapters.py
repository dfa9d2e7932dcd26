"""Adapters that `finetune generate` loads, against the networks that trained them."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from finetune.config.drawing.generate import GenerateConfig
from finetune.config.lora import LoRAConfig
from finetune.config.sections import ModelConfig
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import prediction, relative_difference
from finetune.methods.lora.method import LoRA
from finetune.models import family_named
from finetune.models.family import Components, ModelSource
from finetune.sampling.adapters import Adapters, load_adapters, set_all_strengths
from finetune.sampling.generate import generate
from finetune.sampling.metadata import a1111_hash
from tests.parity.conftest import Export
from tests.support.adapter_models import FAMILY, KINDS, fresh, trained_model
from tests.support.families import TINY_FAMILIES, save_tiny_pipeline


def loaded(source: ModelSource, *paths: Path) -> tuple[Components, Adapters]:
    components, said = fresh(source), list[str]()
    adapters = load_adapters(FAMILY, components, paths, said)
    assert said == []
    return components, adapters


def at(components: Components, adapters: Adapters, *strengths: float) -> torch.Tensor:
    set_all_strengths(adapters, strengths)
    return prediction(FAMILY, components)


@pytest.mark.parametrize("kind", KINDS)
def test_every_exported_file_gives_the_trained_networks_output(kind: str, export: Export, source: ModelSource) -> None:
    exported = export(kind)
    trained, base = prediction(FAMILY, exported.model.components), prediction(FAMILY, fresh(source))
    assert relative_difference(trained, base) > 1e-3
    for name in exported.differences:
        components, adapters = loaded(source, exported.folder / name)
        assert relative_difference(trained, at(components, adapters, 1.0)) < 1e-4, name


@pytest.mark.parametrize("name", ["style.safetensors", DIFFUSERS_FILE])
def test_strengths_are_set_again_without_a_trace(name: str, export: Export, source: ModelSource) -> None:
    components, adapters = loaded(source, export("lora").folder / name)
    base = prediction(FAMILY, fresh(source))
    whole, half = at(components, adapters, 1.0), at(components, adapters, 0.5)
    assert torch.equal(at(components, adapters, 0.0), base)
    assert torch.equal(at(components, adapters, 0.5), half) and torch.equal(at(components, adapters, 1.0), whole)
    assert relative_difference(whole, half) > 1e-3 and relative_difference(half, base) > 1e-3


def test_half_a_strength_is_half_the_alpha(export: Export, source: ModelSource, tmp_path: Path) -> None:
    file = export("lora").folder / "style.safetensors"
    tensors = safetensors.torch.load_file(file)
    halved = {key: value / 2 if key.endswith("alpha") else value for key, value in tensors.items()}
    safetensors.torch.save_file(halved, tmp_path / "half.safetensors")
    expected = at(*loaded(source, tmp_path / "half.safetensors"), 1.0)
    assert relative_difference(expected, at(*loaded(source, file), 0.5)) < 1e-6


def test_two_adapters_add_up_in_either_layout(export: Export, source: ModelSource) -> None:
    files = [export("lora").folder / "style.safetensors", export("rslora").folder / "style.safetensors"]
    theirs = [export("lora").folder / DIFFUSERS_FILE, export("rslora").folder / DIFFUSERS_FILE]
    ours = at(*loaded(source, *files), 0.7, 0.3)
    assert relative_difference(ours, at(*loaded(source, *theirs), 0.7, 0.3)) < 1e-4
    assert relative_difference(ours, at(*loaded(source, files[0], theirs[1]), 0.7, 0.3)) < 1e-4
    assert relative_difference(ours, at(*loaded(source, *files), 0.3, 0.7)) > 1e-3


def test_other_programs_names_of_layers_are_known(export: Export, source: ModelSource, tmp_path: Path) -> None:
    """LyCORIS' own wrapper, which knows no text encoder."""
    file = export("loha").folder / "style.safetensors"
    tensors = {k: v for k, v in safetensors.torch.load_file(file).items() if k.startswith("lora_unet_")}
    safetensors.torch.save_file(tensors, tmp_path / "one.safetensors")
    renamed = {key.replace("lora_unet_", "lycoris_"): value for key, value in tensors.items()}
    safetensors.torch.save_file(renamed, tmp_path / "other.safetensors")
    one, other = (at(*loaded(source, tmp_path / f"{name}.safetensors"), 1.0) for name in ("one", "other"))
    assert torch.equal(one, other) and relative_difference(one, prediction(FAMILY, fresh(source))) > 1e-3


def test_a_prompts_strength_wins_and_is_written_into_the_image(
    export: Export, source: ModelSource, tmp_path: Path
) -> None:
    file = export("lora").folder / "style.safetensors"
    prompts = "a red circle", "a red circle --am 1", "a red circle --am 0"
    small: dict[str, Any] = {"width": 32, "height": 32, "num_inference_steps": 2, "lora": (f"{file}:0.5",)}
    model = ModelConfig(source.location)
    half, whole, none = generate(GenerateConfig(model, prompts, tmp_path, **small))
    (plain,) = generate(GenerateConfig(model, prompts[:1], tmp_path, **(small | {"lora": ()})))
    (other,) = generate(GenerateConfig(model, prompts[:1], tmp_path / "other", **(small | {"lora": (str(file),)})))
    pixels = {path: np.asarray(Image.open(path)) for path in (half, whole, none, plain, other)}
    assert np.array_equal(pixels[none], pixels[plain]) and np.array_equal(pixels[whole], pixels[other])
    assert not np.array_equal(pixels[half], pixels[whole]) and not np.array_equal(pixels[half], pixels[none])
    said = Image.open(half).info["parameters"]
    assert (
        said.startswith("a red circle <lora:style:0.5>\n") and f'Lora hashes: "style: {a1111_hash(file)[:12]}"' in said
    )


def test_a_file_without_the_text_encoder_is_read_without_a_warning(
    export: Export, source: ModelSource, tmp_path: Path
) -> None:
    tensors = safetensors.torch.load_file(export("lora").folder / DIFFUSERS_FILE)
    alone = {key: value for key, value in tensors.items() if key.startswith("unet.")}
    safetensors.torch.save_file(alone, tmp_path / "alone.safetensors")
    found = at(*loaded(source, tmp_path / "alone.safetensors"), 1.0)
    assert relative_difference(found, prediction(FAMILY, fresh(source))) > 1e-3


def test_a_bias_is_changed_too(source: ModelSource, tmp_path: Path) -> None:
    name, change = "lora_unet_mid_block_attentions_0_proj_in", torch.full((16,), 0.5)
    safetensors.torch.save_file({f"{name}.diff_b": change}, tmp_path / "bias.safetensors")
    components, adapters = loaded(source, tmp_path / "bias.safetensors")
    layer = components.denoiser.mid_block.attentions[0].proj_in
    before = layer.bias.clone()
    at(components, adapters, 0.5)
    torch.testing.assert_close(layer.bias, before + 0.25)


@pytest.mark.parametrize("kind", ["lora", "loha"])
@pytest.mark.parametrize("name", [name for name in TINY_FAMILIES if name != "sd"])
def test_exports_of_other_families_give_the_trained_networks_output(name: str, kind: str, tmp_path: Path) -> None:
    family, source = family_named(name), ModelSource(str(save_tiny_pipeline(name, tmp_path / "model")))
    config = LoRAConfig(kind=kind, rank=2, init="gaussian" if kind == "lora" else "default")  # pyright: ignore[reportArgumentType]
    model = trained_model(source, config, family=family)
    trained = prediction(family, model.components)
    written = LoRA(config).export(model, tmp_path)
    assert len(written) == 2
    for path in written:
        components = fresh(source, family)
        adapters = load_adapters(family, components, [path], [])
        set_all_strengths(adapters, (1.0,))
        assert relative_difference(trained, prediction(family, components)) < 1e-3, path.name


def test_an_adapter_without_a_strength_is_refused_at_another(export: Export, source: ModelSource) -> None:
    components, adapters = loaded(source, export("oft").folder / "peft")
    with pytest.raises(ValueError, match="without a strength"):
        at(components, adapters, 0.5)


@pytest.mark.parametrize("change", ["unknown layer", "other size", "unknown kind", "other model", "not a file"])
def test_files_of_other_models_are_refused(change: str, export: Export, source: ModelSource, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(export("lora").folder / "style.safetensors")
    name = next(key for key in tensors if key.endswith("attn1_to_q.lora_up.weight"))
    layer = name.partition(".")[0]
    if change == "unknown layer":
        tensors["lora_unet_foo.lora_up.weight"] = tensors[name].clone()
    elif change == "other size":
        tensors[name] = torch.cat([tensors[name]] * 2)
    elif change == "unknown kind":
        tensors[f"{layer}.oft_blocks"] = copy.deepcopy(tensors.pop(name))
    elif change == "other model":
        tensors = {"transformer.blocks.0.q.lora_A.weight": tensors[name].T.contiguous()}
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file(tensors, file)
    if change == "not a file":
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"lora: .*a\.safetensors"):
        load_adapters(FAMILY, fresh(source), [file], [])
