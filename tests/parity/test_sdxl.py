"""SDXL's sizes, empty prompts and two encoders; tests/contract has the rest."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from benchmarks.model_sizes import sdxl_unet
from finetune.batches.fill_caches import text_fingerprint
from finetune.config.lora import LoRAConfig
from finetune.config.loss import LossConfig
from finetune.export.lora import lora_layers, save_diffusers_lora, save_kohya_lora
from finetune.export.lycoris import save_lycoris
from finetune.export.single_file import single_file_name
from finetune.export.verify import prediction, relative_difference, reloaded_differences
from finetune.methods.lora.adapters import adapter_layers, layer_scales
from finetune.methods.lora.method import LoRA
from finetune.models.families.sdxl import StableDiffusionXL
from finetune.models.family import Components, ModelSource, Network
from finetune.models.prompts import Prompts, whole_sizes
from finetune.optim.ema import load_trained_state, trained_state
from tests.contract.calls import arguments_of
from tests.support.adapter_models import moved
from tests.tiny.sd import train_tokenizer
from tests.tiny.sdxl import WIDTHS, save_pipeline

FAMILY = StableDiffusionXL()
PIECES = ("a " * 75, "red " * 75, "circle " * 20)
CPU = torch.device("cpu")
DRAWN: dict[str, Any] = {"num_inference_steps": 3, "height": 16, "width": 24, "output_type": "latent"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def pipeline(model: Path) -> StableDiffusionXLPipeline:
    """The checkpoint as diffusers loads it, with nothing of ours."""
    return plain(model)


@pytest.fixture(scope="module")
def components(model: Path) -> Components:
    return FAMILY.load(ModelSource(str(model)))


def plain(model: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(model, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def encoded(components: Components, *captions: str) -> Prompts:
    return FAMILY.encode_prompts(components.text_encoders, FAMILY.tokenize(components.tokenizers, captions))


@pytest.mark.parametrize("zeros", [True, False])
def test_the_empty_prompt_is_what_the_pipeline_takes_without_a_negative_prompt(zeros: bool, tmp_path: Path) -> None:
    save_pipeline(tmp_path, force_zeros=zeros)
    pipeline, ours = plain(tmp_path), FAMILY.load(ModelSource(str(tmp_path)))
    with torch.no_grad():
        _, negative, _, negative_pooled = pipeline.encode_prompt("a", device=CPU, do_classifier_free_guidance=True)
    arguments = FAMILY.pipeline_prompts(ours, "a red circle", "")
    assert torch.equal(arguments["negative_prompt_embeds"], negative)
    torch.testing.assert_close(arguments["negative_pooled_prompt_embeds"], negative_pooled, rtol=0, atol=1e-6)
    dropped = encoded(ours, "")
    assert torch.equal(dropped.embeddings, negative) and torch.equal(dropped.pooled, negative_pooled)
    assert bool(dropped.embeddings.any()) == bool(dropped.pooled.any()) == (not zeros)
    assert FAMILY.pipeline(ours).config["force_zeros_for_empty_prompt"] is zeros


def test_cached_texts_of_the_two_kinds_of_empty_prompt_are_told_apart(model: Path, tmp_path: Path) -> None:
    save_pipeline(tmp_path, force_zeros=False)
    others = (FAMILY.load(ModelSource(str(folder))) for folder in (model, tmp_path))
    first, second = (text_fingerprint(parts) for parts in others)
    assert first != second


def test_each_chunk_of_a_long_prompt_is_encoded_as_the_pipeline_does_alone(
    pipeline: Any, components: Components
) -> None:
    whole = encoded(components, "".join(PIECES))
    with torch.no_grad():
        alone = [pipeline.encode_prompt(piece, device=CPU) for piece in PIECES]
    torch.testing.assert_close(whole.embeddings, torch.cat([piece[0] for piece in alone], 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole.pooled, alone[0][2], rtol=1e-5, atol=1e-6)
    short = FAMILY.pipeline_prompts(components, "a", "".join(PIECES))
    assert short["prompt_embeds"].shape == short["negative_prompt_embeds"].shape == (1, 231, sum(WIDTHS))


def test_both_encoders_get_equally_many_chunks_where_one_tokenizer_needs_more() -> None:
    """ "!!" is one token of the first tokenizer, two of the second."""
    first, second = train_tokenizer(), train_tokenizer(padding="!")
    first.add_tokens(["red!"])
    tokens = FAMILY.tokenize([first, second], ["a " * 73 + "red!" + " a", "a"])
    assert tokens.chunks.tolist() == [2, 1] and tokens.ids[0].shape == tokens.ids[1].shape == (2, 2, 77)
    assert tokens.ids[0][0, 1].tolist() == [first.bos_token_id] + [first.eos_token_id] * 76
    assert tokens.empty.tolist() == [False, False]


def test_the_prediction_in_training_is_what_the_pipeline_computes_with_its_sizes(
    pipeline: Any, components: Components
) -> None:
    sizes = {"original_size": (90, 70), "crops_coords_top_left": (3, 5), "target_size": (16, 24)}
    with arguments_of(pipeline.unet) as calls:
        pipeline("a blue triangle", generator=torch.Generator().manual_seed(0), **sizes, **DRAWN)
    assert len(calls) == 3
    network = Network(FAMILY, components.denoiser)
    prompts = encoded(components, "", "a blue triangle")  # guidance runs the negative prompt first
    prompts = replace(prompts, sizes=torch.tensor([[90, 70, 3, 5, 16, 24]] * 2))
    for (noisy, kwargs, expected), t in zip(calls, pipeline.scheduler.timesteps, strict=True):
        assert torch.equal(kwargs["encoder_hidden_states"], prompts.embeddings)
        assert torch.equal(kwargs["added_cond_kwargs"]["time_ids"].long(), prompts.sizes)
        with torch.no_grad():
            ours = network(noisy, t.expand(2), prompts)
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
            uncropped = network(noisy, t.expand(2), replace(prompts, sizes=whole_sizes(2, 16, 24)))
        assert (ours - uncropped).abs().max() > 1e-5


def adapted(model: Path, config: LoRAConfig) -> tuple[Components, Network, dict[str, Tensor]]:
    """Adapters on the denoiser and both text encoders, as if trained."""
    components = FAMILY.load(ModelSource(str(model)))
    for part in (components.denoiser, *components.text_encoders):
        part.requires_grad_(False)
    network = LoRA(config, text_encoder=True).network(FAMILY, components)
    LoRA(config).attach(network, 0)
    state = moved(trained_state(network))
    load_trained_state(network, state)
    return components, network, state


@pytest.mark.parametrize("conv", [False, True])
def test_both_layouts_of_a_lora_reload_through_diffusers_with_every_layer(
    conv: bool, model: Path, tmp_path: Path
) -> None:
    components, network, state = adapted(model, LoRAConfig(rank=4, alpha=6.5, conv=conv))
    untouched = prediction(FAMILY, FAMILY.load(ModelSource(str(model))))
    trained, layers = prediction(FAMILY, components), lora_layers(state, layer_scales(network))
    assert {layer.part for layer in layers} == {"denoiser", "text_encoders.0", "text_encoders.1"}
    assert relative_difference(trained, untouched) > 0.01
    folder = save_diffusers_lora(FAMILY, components, layers, tmp_path)
    file = tmp_path / "style.safetensors"
    save_kohya_lora(FAMILY, network.denoiser, layers, metadata={}, dtype="fp32", path=file)
    expected = {name for name, _ in adapter_layers(network)}
    found = reloaded_differences(FAMILY, ModelSource(str(model)), trained, expected, [folder, file])
    assert max(found.values()) < 1e-5

    names = {key.partition(".")[0] for key in safetensors.torch.load_file(file)}
    assert {name.split("_")[1] for name in names} == {"unet", "te1", "te2"}
    inner = "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_out_0"
    assert inner in names and "lora_te1_text_model_encoder_layers_1_mlp_fc2" in names
    assert not any("down_blocks" in name or "up_blocks" in name for name in names)
    convolutions = {"input_blocks_3_0_op", "output_blocks_2_2_conv", "input_blocks_4_0_skip_connection"}
    assert {f"lora_unet_{name}" for name in convolutions} <= names or not conv


def test_a_loha_reloads_from_its_single_file(model: Path, tmp_path: Path) -> None:
    components, network, state = adapted(model, LoRAConfig(kind="loha", rank=3, conv=True))
    trained, scales = prediction(FAMILY, components), layer_scales(network)
    file = tmp_path / "style.safetensors"
    save_lycoris(FAMILY, network.denoiser, state, scales, metadata={}, dtype="fp32", path=file)
    expected = {name for name, _ in adapter_layers(network)}
    assert max(reloaded_differences(FAMILY, ModelSource(str(model)), trained, expected, [file]).values()) < 1e-5


def test_the_names_of_the_real_u_nets_layers_are_those_that_diffusers_maps_back() -> None:
    """diffusers' own mapping is written the other way round. sd-scripts adapts 722 layers of the real U-Net."""
    with torch.device("meta"):
        unet = sdxl_unet()
    layers = [name for name, layer in unet.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    assert sum(name.endswith(FAMILY.lora_targets) for name in layers) == 722
    names = {name: single_file_name(FAMILY, unet, "denoiser", name) for name in layers}
    assert len(set(names.values())) == len(layers)
    tensors = {
        f"{names[name]}.lora_{end}.weight": torch.tensor(float(number))
        for number, name in enumerate(layers)
        for end in ("down", "up")
    }
    state, _ = StableDiffusionXLPipeline.lora_state_dict(tensors, unet_config=unet.config)
    assert len(state) == 2 * len(layers)
    for key, value in state.items():
        back = re.sub(r"\.processor|(\.lora|_lora)\.(down|up)|\.weight", "", key.removeprefix("unet."))
        name = layers[int(value)]
        assert back == name.removesuffix(".0") if name.endswith("to_out.0") else back == name, (back, name)


def test_the_first_encoders_last_layer_is_left_alone_since_nothing_reads_it(components: Components) -> None:
    network = Network(FAMILY, components.denoiser, components.text_encoders).requires_grad_(True)
    network.zero_grad()
    prompts = replace(FAMILY.tokenize(components.tokenizers, ["a red circle", ""]), sizes=whole_sizes(2, 16, 16))
    network(torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), prompts).square().mean().backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    unread = FAMILY.unread_layers(components.text_encoders)
    assert without == {name for name, _ in network.named_parameters() if name.startswith(unread)} != set()


def test_the_objective_is_the_schedulers(tmp_path: Path, components: Components) -> None:
    source = ModelSource(str(save_pipeline(tmp_path, prediction_type="v_prediction")))
    v_model: Any = FAMILY.objective(FAMILY.scheduler(source), LossConfig(zero_terminal_snr=True))
    assert v_model.prediction_type == "v_prediction" and v_model.alphas_cumprod[-1] == 0
    spec = FAMILY.model_spec(components, v_model)
    assert spec["modelspec.prediction_type"] == "v" and spec["ss_base_model_version"] == "sdxl_base_v1-0"
    with pytest.raises(ValueError, match="epsilon"):
        FAMILY.objective(components.scheduler, LossConfig(zero_terminal_snr=True))
