import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor

from finetune.config.lora import LoRAConfig
from finetune.export.fused import file_layers, share, stacked
from finetune.export.lora import LoRALayer, joined, save_kohya_lora
from finetune.export.lycoris import weight_change
from finetune.methods.lora.adapters import adapted_layers
from finetune.methods.lora.method import LoRA
from finetune.models.families.flux import Flux
from finetune.models.family import ModelSource, SingleFileLayer
from finetune.models.layer_names.flux import RENAMED
from tests.support.adapter_models import KINDS, trained_model
from tests.tiny.flux import build_transformer, save_pipeline

FAMILY = Flux()
FLUX_KINDS = {
    name: {key: value for key, value in options.items() if key not in ("conv", "rank_pattern", "alpha_pattern")}
    for name, options in KINDS.items()
    if name != "convolutions and patterns"
} | {
    "patterns": {"rank": 4, "rank_pattern": ("to_k=2", "proj_mlp=3"), "alpha_pattern": ("to_q=1.5",)},
    "some of the fused": {"rank": 4, "alpha": 6.5, "targets": ("to_v", "proj_mlp", "add_k_proj", "to_out.0")},
    "outside the blocks": {"rank": 4, "targets": ("x_embedder", "norm_out.linear", "proj_out", "linear_1")},
    "dora on some": {"rank": 4, "dora": True, "targets": ("to_v", "norm_out.linear")},
    "loha on some": {"kind": "loha", "rank": 3, "alpha": 2.0, "targets": ("to_v", "to_q"), "rank_pattern": ("to_q=2",)},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource(str(save_pipeline(tmp_path_factory.mktemp("models") / "flux")))


Export = Callable[[str], tuple[dict[str, float], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def export(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export a kind, once for all tests. Return differences by file, and the single file's tensors."""

    @functools.cache
    def exported(kind: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        config, folder = LoRAConfig(**FLUX_KINDS[kind]), tmp_path_factory.mktemp("export")
        found = LoRA(config).export(trained_model(source, config, family=FAMILY), folder)
        tensors = safetensors.torch.load_file(folder / "style.safetensors")
        return {path.name: difference for path, difference in found.items()}, tensors

    return exported


@pytest.mark.parametrize("kind", sorted(set(FLUX_KINDS) - {"outside the blocks"}))
def test_every_layout_gives_the_live_networks_output(kind: str, export: Export) -> None:
    """The single file is read by its formulas. diffusers assumes a width that the tiny model does not have."""
    differences, _ = export(kind)
    assert len(differences) == 2 and max(differences.values()) < 1e-5


def test_layers_outside_the_blocks_are_read_by_formulas_where_diffusers_leaves_them_aside(export: Export) -> None:
    differences, tensors = export("outside the blocks")
    assert max(differences.values()) < 1e-5
    names = {key.partition(".")[0] for key in tensors if key.startswith("lora_unet")}
    assert {"lora_unet_img_in", "lora_unet_final_layer_linear", "lora_unet_final_layer_adaLN_modulation_1"} <= names
    assert {"lora_unet_time_in_in_layer", "lora_unet_vector_in_in_layer", "lora_unet_guidance_in_in_layer"} <= names


def test_the_names_are_those_of_sd_scripts(export: Export) -> None:
    _, tensors = export("lora")
    double = [f"{s}_{layer}" for s in ("img", "txt") for layer in ("attn_qkv", "attn_proj", "mlp_0", "mlp_2")]
    expected = {f"lora_unet_double_blocks_{n}_{layer}" for n in range(2) for layer in double}
    expected |= {f"lora_unet_single_blocks_{n}_{layer}" for n in range(2) for layer in ("linear1", "linear2")}
    clip = [f"self_attn_{p}_proj" for p in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
    expected |= {f"lora_te1_text_model_encoder_layers_{n}_{layer}" for n in range(2) for layer in clip}
    assert {key.partition(".")[0] for key in tensors} == expected
    assert tensors["lora_unet_single_blocks_0_linear1.lora_down.weight"].shape == (16, 16)  # four of rank 4
    assert tensors["lora_unet_single_blocks_0_linear1.lora_up.weight"].shape == (16 * 7, 16)


def test_kinds_without_a_joined_form_are_written_as_whole_differences_where_they_are_fused(export: Export) -> None:
    _, lokr = export("lokr")
    assert lokr["lora_unet_single_blocks_0_linear1.diff"].shape == (16 * 7, 16)
    assert "lora_unet_single_blocks_0_linear2.lokr_w1" in lokr
    _, loha = export("loha")
    assert not any(key.endswith(".diff") for key in loha)


def layers_for(denoiser: Any, targets: Sequence[str], ranks: dict[str, int]) -> list[LoRALayer]:
    """Layers as if trained, each with a scale of its own."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number, name in enumerate(adapted_layers(denoiser, "denoiser", targets)):
        layer, rank = denoiser.get_submodule(name), ranks.get(name.rpartition(".")[2], 2)
        down = torch.randn(rank, layer.in_features, generator=generator) / 50
        up = torch.randn(layer.out_features, rank, generator=generator)
        found.append(LoRALayer("denoiser", name, down, up, scale=1.0 + number % 3))
    return found


MODULATIONS = ("norm1.linear", "norm1_context.linear", "norm.linear")


@pytest.mark.parametrize(
    ("targets", "ranks"),
    [
        ((*FAMILY.lora_targets, *MODULATIONS), {}),
        (FAMILY.lora_targets, {"to_k": 3, "proj_mlp": 1, "add_v_proj": 4}),
        (("to_v", "add_k_proj", "proj_mlp"), {"to_v": 3}),
        (("to_q", "to_v"), {"to_q": 3, "to_v": 3}),
    ],
    ids=["all", "ranks of their own", "one of each", "two thirds"],
)
def test_diffusers_takes_apart_what_was_joined(tmp_path: Path, targets: Sequence[str], ranks: dict[str, int]) -> None:
    """At the released models' width, on the meta device. up and down are compared on a vector."""
    with torch.device("meta"):
        denoiser = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    layers = layers_for(denoiser, targets, ranks)
    assert FAMILY.diffusers_reads_single_file(denoiser, [layer.module for layer in layers])
    path = save_kohya_lora(FAMILY, denoiser, layers, metadata={}, dtype="fp32", path=tmp_path / "style.safetensors")
    state: Any = FluxPipeline.lora_state_dict(str(tmp_path), weight_name=path.name)
    generator = torch.Generator().manual_seed(1)
    expected = {f"transformer.{layer.module}": layer for layer in layers}
    names = {key.rsplit(".lora_", 1)[0] for key in state}
    assert set(expected) <= names
    for name in names:
        down, up = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        vector = torch.randn(down.shape[1], generator=generator)
        found = up @ (down @ vector)
        if name not in expected:  # beside an adapted layer in the file
            assert bool((found == 0).all())
            continue
        layer = expected[name]
        torch.testing.assert_close(found, layer.scale * layer.up @ (layer.down @ vector), rtol=1e-4, atol=1e-4)


def test_layers_outside_the_blocks_have_the_names_and_the_order_that_diffusers_reads(tmp_path: Path) -> None:
    """It converts these too, though it then ignores them. It swaps the halves of the last norm."""
    denoiser = build_transformer(guidance=True)
    layers = [replace(layer, scale=1.0) for layer in layers_for(denoiser, tuple(RENAMED), {})]
    layers = [layer for layer in layers if "transformer_blocks" not in layer.module]
    assert {layer.module for layer in layers} == set(RENAMED)
    path = save_kohya_lora(FAMILY, denoiser, layers, metadata={}, dtype="fp32", path=tmp_path / "style.safetensors")
    state: Any = FluxPipeline.lora_state_dict(str(tmp_path), weight_name=path.name)
    for layer in layers:
        assert torch.equal(state[f"{layer.module}.lora_A.weight"], layer.down)
        assert torch.equal(state[f"{layer.module}.lora_B.weight"], layer.up)


def test_diffusers_is_not_asked_to_read_what_it_leaves_aside() -> None:
    with torch.device("meta"):
        real = FluxTransformer2DModel(num_layers=1, num_single_layers=1)
    assert not FAMILY.diffusers_reads_single_file(real, ["x_embedder"])
    assert not FAMILY.diffusers_reads_single_file(build_transformer(guidance=True), ["transformer_blocks.0.attn.to_q"])


def test_a_joined_layer_is_the_sum_of_its_parts_and_missing_ones_are_zero() -> None:
    denoiser = build_transformer(guidance=True)
    layers = layers_for(denoiser, ("single_transformer_blocks.*.attn.to_v", "proj_mlp"), {"to_v": 3})
    found = joined(FAMILY, denoiser, layers)
    assert list(found) == ["lora_unet_single_blocks_0_linear1", "lora_unet_single_blocks_1_linear1"]
    layer = found["lora_unet_single_blocks_0_linear1"]
    assert layer.rank == 5
    change = layer.scale * layer.up @ layer.down
    values, mlp = layers[0], layers[1]
    if "mlp" in values.module:
        values, mlp = mlp, values
    torch.testing.assert_close(change[32:48], values.scale * values.up @ values.down)
    torch.testing.assert_close(change[48:], mlp.scale * mlp.up @ mlp.down)
    assert bool((change[:32] == 0).all())


def test_stacked_lohas_multiply_as_each_did(export: Export) -> None:
    _, tensors = export("loha on some")
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    change = weight_change({key.rpartition(".")[2]: v for key, v in tensors.items() if key.startswith(f"{name}.")})
    assert change.shape == (48, 16)
    assert bool((change[16:32] == 0).all()) and bool((change[:16] != 0).any()) and bool((change[32:] != 0).any())


def test_swapped_halves_come_back() -> None:
    place, change = SingleFileLayer("a", swapped=True), torch.arange(8.0).view(4, 2)
    whole = stacked({"x": place}, {"x": change})
    assert whole[:, 0].tolist() == [4.0, 6.0, 0.0, 2.0]
    assert torch.equal(share(place, whole), change)


def test_two_layers_at_one_place_are_refused() -> None:
    denoiser = build_transformer(guidance=True)
    with pytest.raises(ValueError, match=r"lora\.targets"):
        file_layers(FAMILY, denoiser, ["denoiser.proj_out", "denoiser.final_layer.linear"])
