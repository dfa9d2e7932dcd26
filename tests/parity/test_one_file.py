"""Whole models in one file of their first published layout."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders import single_file_utils
from safetensors import safe_open
from torch import nn

from finetune.cli import main
from finetune.config.loss import LossConfig
from finetune.config.outputs import OutputConfig
from finetune.config.recipes import FullTrainConfig, LoRATrainConfig
from finetune.config.sections import DataConfig, ModelConfig
from finetune.export.fused import stacked
from finetune.export.metadata import RunFacts
from finetune.export.one_file import in_fp8, original_weights, save_one_file
from finetune.export.pipeline import outputs
from finetune.export.verify import relative_difference
from finetune.methods.base import TrainedModel
from finetune.methods.full import Full
from finetune.models import family_named
from finetune.models.families.flux import Flux
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource, SingleFileLayer
from finetune.models.loading.components import find_family
from finetune.models.loading.eight_bits import eight_bit_warnings
from finetune.models.loading.marks import read_marks
from finetune.optim.ema import trained_state
from tests.support.families import save_tiny_pipeline


def saved(
    name: str, folder: Path, dtype: str = "fp32", loss: LossConfig | None = None
) -> tuple[ModelSource, Path, list[str]]:
    """Write a tiny model as one file. It is reloaded by diffusers and compared on the way."""
    source = ModelSource(str(save_tiny_pipeline(name, folder / "model")))
    family, said = family_named(find_family(source)), list[str]()
    components = family.load(source)
    objective = family.objective(components.scheduler, loss or LossConfig())
    path = folder / "ink.safetensors"
    save_one_file(family, components, objective, dtype=dtype, path=path, say=said.append)  # pyright: ignore[reportArgumentType]
    return source, path, said


@pytest.mark.parametrize("name", ["sd", "sd2", "sdxl"])
def test_the_file_is_read_again_as_the_same_model(name: str, tmp_path: Path) -> None:
    """Reload it with diffusers, and here where the file's kind shows."""
    source, path, said = saved(name, tmp_path)
    assert said == [] and not list(tmp_path.glob(".*"))
    if name == "sd":
        family = family_named(find_family(source))
        again = family.load(ModelSource(str(path), config=Path(source.location)))
        for one, other in zip(outputs(family, family.load(source)), outputs(family, again), strict=True):
            assert relative_difference(one, other) < 1e-5


@pytest.mark.parametrize("name", ["sd3", "sd3.5", "sd3 without T5"])
def test_models_with_joined_layers_are_reloaded_by_diffusers(name: str, tmp_path: Path) -> None:
    _, path, said = saved(name, tmp_path, "fp16")
    tensors = safetensors.torch.load_file(path)
    assert "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight" in tensors
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert len(said) == 1 and "projection of its own" in said[0]  # the tiny model's is random


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_fp8_is_for_the_layers_of_the_denoiser_alone(name: str, tmp_path: Path) -> None:
    """Compare each weight with its cast, and load a file here."""
    source, path, _ = saved(name, tmp_path, "fp8")
    family = family_named(find_family(source))
    components = family.load(source)
    tensors, exact = safetensors.torch.load_file(path), original_weights(family, components)
    eight = {name for name, value in tensors.items() if value.dtype == torch.float8_e4m3fn}
    assert {value.dtype for name, value in tensors.items() if name not in eight} <= {torch.float16, torch.int64}
    assert all(name.startswith("model.diffusion_model.") and name.endswith(".weight") for name in eight)
    layers = [each for each in components.denoiser.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    assert sum(tensors[name].numel() for name in eight) == sum(layer.weight.numel() for layer in layers)
    for key, value in tensors.items():
        assert torch.equal(value.float(), exact[key].to(value.dtype).float()), key
    if name == "sd":
        again = ModelSource(str(path), config=Path(source.location))
        assert len(eight_bit_warnings(again)) == 1
        difference = relative_difference(*(outputs(family, each)[0] for each in (components, family.load(again))))
        assert 1e-3 < difference < 0.5


def test_weights_beyond_fp8_are_named(tmp_path: Path) -> None:
    components = StableDiffusion().load(ModelSource(str(save_tiny_pipeline("sd", tmp_path))))
    components.denoiser.get_parameter("conv_in.weight").data[0, 0, 0, 0] = 500
    with pytest.raises(ValueError, match=r"dtype: conv_in of the denoiser reaches 500, too large for fp8"):
        in_fp8(components)


def test_v_prediction_and_zero_terminal_snr_are_marked(tmp_path: Path) -> None:
    _, path, _ = saved("sd2", tmp_path, loss=LossConfig(zero_terminal_snr=True))
    marks = read_marks(ModelSource(str(path)))
    assert marks.prediction_type == "v_prediction" and marks.zero_snr_mark
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-diffusion-v2-768-v"
    assert metadata["modelspec.title"] == "ink" and metadata["modelspec.sai_model_spec"] == "1.0.1"


def test_diffusers_takes_the_joined_layers_apart_at_their_real_width() -> None:
    """Compare numbers that name rows. The width is the one that diffusers knows."""
    with torch.device("meta"):
        denoiser = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    state = {
        name: (torch.arange(len(weight)) + 10_000.0 * number).reshape(-1, *[1] * (weight.ndim - 1))
        for number, (name, weight) in enumerate(denoiser.state_dict().items())
    }
    joined: dict[str, dict[str, SingleFileLayer]] = {}
    for name in state:
        place = Flux().original_weight(denoiser, name)  # pyright: ignore[reportArgumentType]
        joined.setdefault(place.name, {})[name] = place
    file = {
        f"model.diffusion_model.{name}": stacked(dict(sorted(places.items(), key=lambda item: item[1].place)), state)
        for name, places in joined.items()
    }
    found = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(dict(file))
    assert found.keys() == state.keys()
    assert [name for name in state if not torch.equal(found[name], state[name])] == []


def test_a_run_of_all_weights_exports_one_file_where_it_says_so(tiny_model: Path, tmp_path: Path) -> None:
    source, family, method = ModelSource(str(tiny_model)), StableDiffusion(), Full()
    components = family.load(source)
    network = method.network(family, components)
    output = OutputConfig(Path("out"), name="ink", dtype="fp32", one_file=True)
    config = FullTrainConfig(ModelConfig(source.location), DataConfig("pictures"), output)
    facts = RunFacts("ab" * 32, 3, 1, 2, 6, 0, {1: 6}, {}, "pictures", "cd" * 32, {}, "no", 1.0, 2.0)
    objective = family.objective(components.scheduler, LossConfig())
    state = {name: value + 0.01 for name, value in trained_state(network).items()}
    trained = TrainedModel(family, source, components, network, objective, state, config, facts)
    found = method.export(trained, tmp_path / "export")
    assert [path.name for path in found] == ["export", "ink.safetensors"]
    tensors = safetensors.torch.load_file(tmp_path / "export" / "ink.safetensors")
    name = "model.diffusion_model.input_blocks.0.0.weight"
    assert torch.equal(tensors[name], state["denoiser.conv_in.weight"])
    with pytest.raises(ValueError, match=r"output\.one_file: got true, but adapters"):
        LoRATrainConfig(ModelConfig(source.location), DataConfig("pictures"), output)


def test_the_command_writes_a_new_file_alone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "export", str(tiny_model), "--output", str(tmp_path / "ink.safetensors"), "--dtype", "bf16"]
    monkeypatch.setattr("sys.argv", words)
    main()
    assert "in one file; bf16 changes the output by" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main()
    assert "exists already" in capsys.readouterr().err
