from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.config.mask import MaskConfig
from finetune.config.recipes import LoRAConfig
from finetune.methods.lora.method import LoRA
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, Network
from finetune.objectives.diffusion import Diffusion, denoising_loss
from finetune.objectives.mask import LossMask
from finetune.tasks.base_model import adapters_off, masked
from finetune.tasks.denoising import Denoising
from tests.tiny.components import components_of
from tests.tiny.sd import build_pipeline

OBJECTIVE = Diffusion(torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64), "sample", LossConfig(weighting="none"))
T = torch.tensor([0, 2])


def clean_and_noise() -> tuple[Tensor, Tensor]:
    return torch.zeros(2, 4, 2, 3), torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0))


def losses(mask: LossMask | None) -> Tensor:
    """Losses of prediction 2 and target 0; the unmasked loss is 4."""
    clean, noise = clean_and_noise()
    return denoising_loss(OBJECTIVE, lambda noisy, t: torch.full_like(noisy, 2), clean, noise, T, mask=mask)


def one_of_six() -> Tensor:
    inside = torch.zeros(2, 1, 2, 3)
    inside[0, 0, 0, 0], inside[1, 0, 1, 2] = 1, 0.5
    return inside


@pytest.mark.parametrize("outside", [0.0, 0.25])
def test_each_position_counts_by_its_weight_and_the_mean_goes_over_the_image(outside: float) -> None:
    """4 (m + w (1 - m)), summed over positions, by 6."""
    expected = [4 * (1 + 5 * outside) / 6, 4 * (0.5 + 5.5 * outside) / 6]
    torch.testing.assert_close(losses(LossMask(one_of_six(), outside)), torch.tensor(expected))


def test_the_prior_adds_the_distance_to_the_base_models_prediction_outside_the_mask() -> None:
    """The base model predicts 5, which adds 9 (1 - m) p."""
    asked = []

    def untouched(noisy: Tensor, t: Tensor) -> Tensor:
        asked.append((noisy, t, torch.is_grad_enabled()))
        return torch.full_like(noisy, 5)

    found = losses(LossMask(one_of_six(), 0.0, 0.5, untouched))
    torch.testing.assert_close(found, torch.tensor([(4 * 1 + 4.5 * 5) / 6, (4 * 0.5 + 4.5 * 5.5) / 6]))
    clean, noise = clean_and_noise()
    ((noisy, t, has_grad),) = asked
    assert torch.equal(noisy, OBJECTIVE.add_noise(clean, noise, T)) and torch.equal(t, T) and not has_grad


def test_a_mask_of_the_whole_image_changes_nothing_and_one_that_shows_nothing_gives_zero() -> None:
    assert torch.equal(losses(LossMask(torch.ones(2, 1, 2, 3), 0.1)), losses(None))
    assert torch.equal(losses(LossMask(torch.zeros(2, 1, 2, 3), 0.0)), torch.zeros(2))


def test_the_gradient_is_that_of_the_weights_alone() -> None:
    clean, noise = clean_and_noise()
    prediction = torch.full_like(clean, 2, requires_grad=True)
    loss = denoising_loss(OBJECTIVE, lambda noisy, t: prediction, clean, noise, T, mask=LossMask(one_of_six(), 0.25))
    loss.sum().backward()
    weights = (one_of_six() + 0.25 * (1 - one_of_six())).expand_as(clean)
    torch.testing.assert_close(prediction.grad, 2 * 2 * weights / 24)


# The base model.


def network_and_parts() -> tuple[Network, Components]:
    components = components_of(build_pipeline(size="micro"))
    return Network(StableDiffusion(), components.denoiser, components.text_encoders), components


ADAPTERS = {
    "lora": LoRAConfig(rank=4, dropout=0.5),
    "dora": LoRAConfig(rank=4, dora=True),
    "loha": LoRAConfig(rank=4, kind="loha"),
    "lokr": LoRAConfig(rank=4, kind="lokr"),
    "oft": LoRAConfig(rank=16, kind="oft", block_size=4),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_with_adapters_off_the_prediction_is_bit_for_bit_that_from_before_them(kind: str) -> None:
    network, components = network_and_parts()
    family = StableDiffusion()
    noisy, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 800])
    tokens = family.tokenize(components.tokenizers, ["a red circle", "a cross on pink paper"])
    with torch.no_grad():
        before = network(noisy, t, tokens)
    LoRA(ADAPTERS[kind]).attach(network, seed=0)
    adapters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in adapters:
            parameter += 0.1
    adapters[0].requires_grad_(False)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    network.train()
    with torch.no_grad(), adapters_off(network):
        assert not network.training and torch.equal(network(noisy, t, tokens), before)
    assert all(module.training for module in network.modules())
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == trained
    with torch.no_grad():
        assert not torch.allclose(network.eval()(noisy, t, tokens), before, atol=1e-3)


def test_a_prior_is_refused_where_more_than_adapters_is_trained() -> None:
    network, _ = network_and_parts()
    LoRA(LoRAConfig(rank=4)).attach(network, seed=0)
    task: Any = Denoising(OBJECTIVE, Any)  # pyright: ignore[reportArgumentType]
    config = MaskConfig("alpha", prior_weight=1)
    assert masked(task, network, config).masking.prior_weight == 1  # pyright: ignore
    network.denoiser.conv_in.weight.requires_grad_(True)  # pyright: ignore
    with pytest.raises(ValueError, match=r"trains denoiser\.conv_in\.weight"):
        masked(task, network, config)
    assert masked(task, network, replace(config, prior_weight=0)).masking is not None  # pyright: ignore
