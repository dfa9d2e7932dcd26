import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from finetune.config.lora import LoRAConfig
from finetune.export.lycoris import weight_change
from finetune.export.verify import TOLERANCE, prediction, relative_difference, reloaded_differences
from finetune.methods.lora.adapters import adapter_layers
from finetune.methods.lora.method import LoRA
from finetune.models.family import ModelSource
from tests.parity.conftest import Export
from tests.support.adapter_models import FAMILY, KINDS, fresh, trained_model


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_live_networks_output(kind: str, source: ModelSource, export: Export) -> None:
    exported = export(kind)
    model, differences = exported.model, exported.differences
    expected = {"pytorch_lora_weights.safetensors"} if KINDS[kind].get("kind", "lora") == "lora" else {"peft"}
    assert set(differences) == expected | {"style.safetensors"}
    assert max(differences.values()) < 1e-5
    live = prediction(FAMILY, model.components)
    assert relative_difference(prediction(FAMILY, fresh(source)), live) > 0.02
    assert {path.name for path in exported.folder.iterdir()} == set(differences)


@pytest.mark.parametrize("kind", ["lora", "pissa", "lokr", "oft"])
def test_half_precision_stays_within_the_tolerance(kind: str, export: Export) -> None:
    assert 1e-6 < export(kind, "fp16").differences["style.safetensors"] < TOLERANCE


def weights(network: Any) -> dict[str, Tensor]:
    found = {}
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            part, _, module = name.partition(".")
            prefix = "lora_unet_" if part == "denoiser" else "lora_te_text_model_"
            found[prefix + module.removeprefix("0.").replace(".", "_")] = layer.weight
    return found


@pytest.mark.parametrize("kind", ["lora", "convolutions and patterns", "rslora", "orthogonal", "pissa", "olora"])
def test_a_reader_that_knows_alpha_over_rank_alone_gets_the_update_on_the_base_model(
    kind: str, source: ModelSource, export: Export
) -> None:
    exported = export(kind)
    model, tensors = exported.model, exported.tensors()
    components = fresh(source)
    network = LoRA(LoRAConfig(), text_encoder=True).network(FAMILY, components)
    layers = weights(network)
    for name in {key.partition(".")[0] for key in tensors}:
        down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
        change = tensors[f"{name}.alpha"] / down.shape[0] * (up.flatten(1) @ down.flatten(1))
        layers[name].data += change.reshape(layers[name].shape)
    live = prediction(FAMILY, model.components)
    assert relative_difference(live, prediction(FAMILY, components)) < 1e-5


def test_files_of_pissa_have_twice_the_rank_and_say_so(export: Export) -> None:
    metadata = export("olora").metadata()
    assert metadata["ss_network_dropout"] == str(LoRAConfig().dropout)
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("8", "8.0")
    assert json.loads(metadata["ss_network_args"]) == {"init": "olora"}


def test_lohas_update_is_the_elementwise_product_of_two_low_rank_ones(export: Export) -> None:
    exported = export("loha")
    model, tensors = exported.model, exported.tensors()
    name = "lora_unet_mid_block_resnets_0_conv1"
    w1_a, w1_b, w2_a, w2_b = (tensors[f"{name}.hada_{which}"] for which in ("w1_a", "w1_b", "w2_a", "w2_b"))
    assert tensors[f"{name}.alpha"].item() == 2.0
    layer: Any = dict(adapter_layers(model.network))["denoiser.mid_block.resnets.0.conv1"]
    change = layer.get_delta_weight("default")
    for o, i, y, x in ((0, 0, 0, 0), (3, 7, 2, 1), (15, 15, 0, 2)):
        column = (i * 3 + y) * 3 + x
        first, second = (sum(a[o, r] * b[r, column] for r in range(3)) for a, b in ((w1_a, w1_b), (w2_a, w2_b)))
        assert change[o, i, y, x].item() == pytest.approx(2.0 / 3 * float(first * second), rel=1e-4)


@pytest.mark.parametrize(
    "name", ["mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"]
)
def test_lokrs_update_is_the_kronecker_product(name: str, export: Export) -> None:
    """W[o1 K + o2, i1 N + i2] = w1[o1, i1] w2[o2, i2]. alpha counts only where w2 is split, as its readers have it."""
    exported, start = export("lokr"), f"lora_unet_{name.replace('.', '_')}."
    tensors = {key.removeprefix(start): value for key, value in exported.tensors().items() if key.startswith(start)}
    is_split = "conv" in name  # attn2 has rank 64, which is more than its factors are wide
    assert set(tensors) == {"lokr_w1", "alpha", *(("lokr_w2_a", "lokr_w2_b") if is_split else ("lokr_w2",))}
    w1 = tensors["lokr_w1"]
    w2 = tensors["alpha"] * tensors["lokr_w2_a"] @ tensors["lokr_w2_b"] if is_split else tensors["lokr_w2"].flatten(1)
    layer: Any = dict(adapter_layers(exported.model.network))[f"denoiser.{name}"]
    change = layer.get_delta_weight("default").flatten(1)
    assert w1.shape == (4, 4) and change.shape == (16, 4 * w2.shape[1])
    torch.testing.assert_close(weight_change(tensors), change)
    for row, column in ((0, 0), (5, 9), (15, change.shape[1] - 1)):
        by_hand = w1[row // 4, column // w2.shape[1]] * w2[row % 4, column % w2.shape[1]]
        torch.testing.assert_close(change[row, column], by_hand, rtol=1e-4, atol=1e-7)


def test_doras_rows_have_the_learned_lengths(source: ModelSource, export: Export) -> None:
    """DoRA, arXiv 2402.09353, equation 5, by rows as peft has it. m (W + s B A) / ||W + s B A||"""
    exported = export("dora")
    model, tensors = exported.model, exported.tensors()
    layers = weights(LoRA(LoRAConfig(), text_encoder=True).network(FAMILY, fresh(source)))
    state = model.state
    for name in ("mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"):
        a, b = (state[f"denoiser.{name}.lora_{letter}.default.weight"].flatten(1) for letter in "AB")
        length = state[f"denoiser.{name}.lora_magnitude_vector.default.weight"].flatten()
        key = f"lora_unet_{name.replace('.', '_')}"
        weight = layers[key].flatten(1)
        moved = weight + 6.5 / 4 * b @ a
        by_hand = length[:, None] * moved / moved.norm(dim=1, keepdim=True)
        torch.testing.assert_close(tensors[f"{key}.diff"].flatten(1) + weight, by_hand, rtol=1e-4, atol=1e-6)


def test_oft_turns_the_inputs_by_cayley_transforms(source: ModelSource, export: Export) -> None:
    """OFT, arXiv 2306.07280, section 3. R = (I + Q)(I - Q)^-1 of skew-symmetric Q; peft's Q is -Q."""
    exported = export("oft")
    model, tensors = exported.model, exported.tensors()
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    key = f"lora_unet_{name.replace('.', '_')}"
    weight = weights(LoRA(LoRAConfig(), text_encoder=True).network(FAMILY, fresh(source)))[key]
    turned = tensors[f"{key}.diff"] + weight
    upper = model.state[f"denoiser.{name}.oft_R.default.weight"]
    for block in range(4):
        q = torch.zeros(4, 4)
        q[torch.triu_indices(4, 4, 1).unbind()] = upper[block]
        q = q - q.T
        rotation = (torch.eye(4) - q) @ torch.linalg.inv(torch.eye(4) + q)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(4), rtol=0, atol=1e-5)
        columns = slice(4 * block, 4 * block + 4)
        torch.testing.assert_close(turned[:, columns], weight[:, columns] @ rotation.T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_a_file_without_one_of_the_layers_is_refused(
    kind: str, source: ModelSource, export: Export, tmp_path: Path
) -> None:
    exported = export(kind)
    kept = {key: value for key, value in exported.tensors().items() if "mid_block_attentions_0_proj_in." not in key}
    safetensors.torch.save_file(kept, tmp_path / "style.safetensors")
    expected = {name for name, _ in adapter_layers(exported.model.network)}
    trained = prediction(FAMILY, exported.model.components)
    with pytest.raises(ValueError, match=r"style\.safetensors adapts .*mid_block\.attentions\.0\.proj_in"):
        reloaded_differences(FAMILY, source, trained, expected, [tmp_path / "style.safetensors"])


def test_metadata_say_which_module_reads_the_file(export: Export) -> None:
    said = {}
    for kind in ("lora", "convolutions and patterns", "rslora", "dora", "loha", "lokr", "oft"):
        metadata = export(kind).metadata()
        fields = ("ss_network_module", "ss_network_dim", "ss_network_alpha")
        said[kind] = (*(metadata[key] for key in fields), json.loads(metadata.get("ss_network_args", "{}")).get("algo"))
    assert said == {
        "lora": ("networks.lora", "4", "6.5", None),
        "convolutions and patterns": ("networks.lora", "Dynamic", said["convolutions and patterns"][2], None),
        "rslora": ("networks.lora", "Dynamic", str(6.5 * math.sqrt(4)), None),
        "dora": ("lycoris.kohya", "4", "6.5", "full"),
        "loha": ("lycoris.kohya", "Dynamic", "2.0", "loha"),
        "lokr": ("lycoris.kohya", "Dynamic", "5.0", "lokr"),
        "oft": ("lycoris.kohya", "Dynamic", "Dynamic", "full"),
    }


def test_exports_leave_the_run_as_it_was(source: ModelSource, tmp_path: Path) -> None:
    config = LoRAConfig(**KINDS["olora"])
    model = trained_model(source, config)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    random_state = torch.random.get_rng_state()
    LoRA(config).export(model, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_the_peft_folder_tells_nothing_of_the_machine(source: ModelSource, export: Export) -> None:
    folder = export("loha").folder
    for part in ("unet", "text_encoder"):
        text = (folder / "peft" / part / "adapter_config.json").read_text()
        assert json.loads(text)["base_model_name_or_path"] is None
        assert source.location not in text
