"""LoRA files that name a layer twice or have alpha 0."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from finetune.config.lora import LoRAConfig
from finetune.config.sections import ModelConfig
from finetune.export.single_file import DIFFUSERS_FILE
from finetune.export.verify import relative_difference
from finetune.lora_files.convert import convert
from finetune.lora_files.layers import read_layers
from finetune.lora_files.options import ConvertConfig
from finetune.lora_files.show import read
from finetune.methods.lora.start import check_start
from finetune.models.family import ModelSource, Network
from finetune.sampling.adapters import load_adapters
from tests.parity.conftest import Export
from tests.parity.test_resized_adapters import output_with
from tests.support.adapter_models import FAMILY, fresh

PIECES = ("lora_down.weight", "lora_up.weight", "alpha")
KOHYA, DOTTED = "lora_unet_down_blocks_0_attentions_0_proj_in", "down_blocks.0.attentions.0.proj_in"


def written(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file({key: value.clone() for key, value in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize("start", ["unet.", "base_model.model.", "lycoris_", "diffusion_model."])
def test_a_layer_under_two_names_is_refused_with_both(
    start: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    tensors = export("lora").tensors()
    dotted = {"lycoris_": DOTTED.replace(".", "_"), "diffusion_model.": "input_blocks.1.1.proj_in"}
    twin = f"{start}{dotted.get(start, DOTTED)}"
    one, other = sorted((KOHYA, twin))  # the order of a file
    path = written(tmp_path / "a.safetensors", tensors | {f"{twin}.{end}": tensors[f"{KOHYA}.{end}"] for end in PIECES})
    config = ConvertConfig(ModelConfig(source.location), tmp_path / "b.safetensors", "kohya", (str(path),))
    with pytest.raises(ValueError, match=rf"{one} and {other} are both the layer denoiser\.{DOTTED} of the base"):
        convert(config, lambda text: None)
    mixed = "are both the layer" if start == "lycoris_" else r"mixes layouts.*finetune lora convert"
    with pytest.raises(ValueError, match=mixed):
        load_adapters(FAMILY, fresh(source), [path], [])


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "original", "peft"])
def test_layers_with_alpha_zero_are_left_out_and_counted(
    layout: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    tensors = export("lora").tensors() | {f"{KOHYA}.alpha": torch.tensor(0.0)}
    path, said = written(tmp_path / "a.safetensors", tensors), list[str]()
    new = tmp_path / ("b" if layout == "peft" else "b.safetensors")
    convert(ConvertConfig(ModelConfig(source.location), new, layout, (str(path),)), said.append)  # pyright: ignore[reportArgumentType]
    assert "1 layer of 60 with alpha 0 (denoiser.down_blocks.0.attentions.0.proj_in)" in said[0]
    if layout in ("kohya", "diffusers"):
        assert relative_difference(output_with(source, path), output_with(source, new)) < 1e-5


def test_a_file_with_alpha_zero_alone_is_refused(export: Export, source: ModelSource, tmp_path: Path) -> None:
    tensors = {k: v * 0 if k.endswith("alpha") else v for k, v in export("lora").tensors().items()}
    path, components = written(tmp_path / "a.safetensors", tensors), fresh(source)
    config = ConvertConfig(ModelConfig(source.location), tmp_path / "b.safetensors", "kohya", (str(path),))
    with pytest.raises(ValueError, match=r"60 layers of 60 with alpha 0 .* zero at every strength"):
        convert(config, lambda text: None)
    start = read_layers(path, Network(FAMILY, components.denoiser, components.text_encoders))
    assert not start.layers and len(start.dead) == 60
    with pytest.raises(ValueError, match=r"lora\.start: .* with alpha 0 .* Expected a trained LoRA"):
        check_start(LoRAConfig(start=path), start, {})


@pytest.mark.parametrize("note", [[1], {"unet.r": 4, "unet.lora_alpha": "x"}, {"unet.rank_pattern": None}])
def test_a_damaged_note_of_scales_is_named_before_diffusers_reads_it(
    note: object, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    tensors, metadata = read(export("lora").folder / DIFFUSERS_FILE)
    path = written(tmp_path / "a.safetensors", tensors, metadata | {"lora_adapter_metadata": json.dumps(note)})
    with pytest.raises(ValueError, match="metadata: lora_adapter_metadata"):
        load_adapters(FAMILY, fresh(source), [path], [])


@pytest.mark.parametrize("scales", ["nope", '{"denoiser.conv_in": 0}', "[1]"])
def test_a_damaged_note_of_our_own_scales_is_named(
    scales: str, export: Export, source: ModelSource, tmp_path: Path
) -> None:
    tensors, metadata = read(export("lora").folder / DIFFUSERS_FILE)
    path = written(tmp_path / "a.safetensors", tensors, metadata | {"lora_scales": scales})
    config = ConvertConfig(ModelConfig(source.location), tmp_path / "b.safetensors", "kohya", (str(path),))
    with pytest.raises(ValueError, match="metadata: lora_scales"):
        convert(config, lambda text: None)


@pytest.mark.parametrize("config", ["[]", "{}", '{"r": 0}', '{"r": 4, "lora_alpha": "x"}', "nope"])
def test_a_damaged_config_of_peft_is_named(config: str, source: ModelSource, tmp_path: Path) -> None:
    components = fresh(source)
    name = f"base_model.model.{DOTTED}"
    weight = components.denoiser.get_submodule(DOTTED).get_parameter("weight")
    tensors = {f"{name}.lora_A.weight": torch.ones(4, weight.shape[1]), f"{name}.lora_B.weight": torch.ones(8, 4)}
    written(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(config)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        read_layers(tmp_path, Network(FAMILY, components.denoiser, components.text_encoders))
