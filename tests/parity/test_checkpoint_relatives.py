"""Files of LoHa and LoKr against the trained layers, without a run."""

from pathlib import Path

import pytest
import safetensors.torch
from peft import inject_adapter_in_model

from finetune.config.lora import LoRAConfig
from finetune.export.lycoris import lycoris_layers, save_lycoris
from finetune.methods.lora.adapters import attached_configs, layer_scales
from finetune.models import family_named
from finetune.models.family import ModelSource, Network
from finetune.models.loading.components import find_family
from finetune.optim.ema import trained_state
from finetune.run.saving.adapter_files import compare_lycoris
from tests.support.adapter_models import FAMILY, KINDS, attached, fresh, moved
from tests.support.families import save_tiny_pipeline


@pytest.mark.parametrize(("kind", "model"), [("loha", "sd"), ("lokr", "sd"), ("loha", "sd3"), ("lokr", "sd3")])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_a_file_is_compared_layer_by_layer(kind: str, model: str, dtype: str, tmp_path: Path) -> None:
    """Also where layers are one in the file. A wrong number is found."""
    source = ModelSource(str(save_tiny_pipeline(model, tmp_path / "model")))
    family = family_named(find_family(source))
    options = {key: value for key, value in KINDS[kind].items() if key not in ("conv", "rank_pattern")}
    network = attached(fresh(source, family), LoRAConfig(**options), family=family, text_encoder=model == "sd")
    state, scales, path = moved(trained_state(network)), layer_scales(network), tmp_path / "ink.safetensors"
    save_lycoris(family, network.denoiser, state, scales, metadata={}, dtype=dtype, path=path)  # pyright: ignore[reportArgumentType]
    components = fresh(source, family)
    plain = Network.from_components(family, components, text_encoder=model == "sd")
    layers = lycoris_layers(state, scales)
    found = compare_lycoris(path, layers, plain, dtype)  # pyright: ignore[reportArgumentType]
    assert found < 1e-6 if dtype == "fp32" else 1e-6 < found < 1e-2
    tensors = safetensors.torch.load_file(path)
    name = next(name for name, value in tensors.items() if value.dim() == 2)
    tensors[name] = tensors[name] * 1.5
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(ValueError, match=r"export: the change of \S+\.weight in .* differs by"):
        compare_lycoris(path, layers, plain, dtype)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft"])
def test_configs_of_an_adapted_network_are_those_it_was_given(kind: str, tiny_model: Path) -> None:
    """Make the same adapters with them, whose ranks and alphas have patterns."""
    config = LoRAConfig(**KINDS[kind])
    network = attached(fresh(ModelSource(str(tiny_model))), config)
    plain = Network.from_components(FAMILY, fresh(ModelSource(str(tiny_model))), text_encoder=True)
    for part, own in attached_configs(network, config).items():
        inject_adapter_in_model(own, plain.get_submodule(part))
    shapes = [{name: value.shape for name, value in trained_state(each).items()} for each in (network, plain)]
    assert shapes[0] == shapes[1]
    if kind != "oft":
        assert layer_scales(plain) == layer_scales(network)
