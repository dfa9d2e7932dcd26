from pathlib import Path

import pytest
import torch

from finetune.config.parse.command_line import parse
from finetune.config.parse.dump import with_options
from finetune.config.recipes import LoRATrainConfig
from finetune.methods.base import TuningMethod
from finetune.methods.full import Full
from finetune.methods.lora.method import LoRA
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, ModelSource
from finetune.models.prompts import Prompts
from finetune.models.stored import cast_and_move
from finetune.sizing.live_bytes import LiveBytes
from finetune.sizing.model import on_meta
from finetune.sizing.step import Precision, built_network, condition, denoising_step, latent_shape

FAMILY = StableDiffusion()
CONFIG = parse(LoRATrainConfig, ["--model.source", "m", "--data.folder", "d", "--output.folder", "o"], program="test")
SIZE = 64, 96


def counted_on_cpu(
    components: Components, method: TuningMethod, shape: tuple[int, ...], config: LoRATrainConfig
) -> int:
    """Count the tensors of a real step under torch's own autocast."""
    network = method.network(FAMILY, components)
    method.attach(network, 0)
    cast_and_move(network, trained=torch.float32, frozen=torch.bfloat16, device=torch.device("cpu"))
    if config.train.gradient_checkpointing:
        network.checkpoint_gradients()
    network.train()
    noisy, t = torch.randn(shape), torch.full((shape[0],), 5)
    prompts = Prompts(torch.randn(shape[0], 77, components.text_encoders[0].config.hidden_size))
    with LiveBytes() as held:
        with torch.autocast("cpu", torch.bfloat16):
            predicted = network(noisy, t, prompts)
        torch.autograd.backward((predicted.float() - noisy).square().mean())
    return held.peak


@pytest.mark.parametrize(("adapters", "checkpointing"), [(True, False), (True, True), (False, False), (False, True)])
def test_a_planned_step_holds_what_a_real_one_holds(tiny_model: Path, adapters: bool, checkpointing: bool) -> None:
    planned_on = on_meta(FAMILY, ModelSource(str(tiny_model)))
    real = FAMILY.load(ModelSource(str(tiny_model)))
    method: TuningMethod = LoRA(CONFIG.lora) if adapters else Full()
    config = with_options(CONFIG, {"train.gradient_checkpointing": checkpointing})
    shape = latent_shape(FAMILY, planned_on, 2, SIZE)
    exact = Precision(torch.bfloat16, "cpu")
    prompts = condition(FAMILY, planned_on, shape, text_encoder_is_trained=False)
    network = built_network(FAMILY, planned_on, method, config, exact)
    planned = denoising_step(network, prompts, shape, config, exact, frees_gradients=False)
    assert planned.peak == pytest.approx(counted_on_cpu(real, method, shape, config), rel=0.03)


def test_updates_in_the_backward_pass_free_gradients(tiny_model: Path) -> None:
    planned_on = on_meta(FAMILY, ModelSource(str(tiny_model)))
    shape = latent_shape(FAMILY, planned_on, 1, SIZE)
    exact = Precision(torch.float32, "cpu")
    prompts = condition(FAMILY, planned_on, shape, text_encoder_is_trained=False)
    network = built_network(FAMILY, planned_on, Full(), CONFIG, exact)
    kept, freed = (
        denoising_step(network, prompts, shape, CONFIG, exact, frees_gradients=frees) for frees in (False, True)
    )
    assert freed.peak < kept.peak
