from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.batches.batch import Batch
from finetune.batches.encoder import Encoder
from finetune.config.loss import LossConfig
from finetune.config.recipes import LoRAConfig
from finetune.methods.full import Full
from finetune.methods.lora.method import LoRA
from finetune.models import FAMILIES
from finetune.models.family import Components, ModelFamily, Network
from finetune.models.prompts import whole_sizes
from finetune.objectives.diffusion import denoising_loss
from tests.contract.calls import HEIGHT, WIDTH, prompts_of
from tests.support.families import VARIANTS

CAPTIONS = ("a red circle on white paper", "a blue cross")
TIMESTEPS = torch.tensor([210, 805])


def latents_for(family: ModelFamily, components: Components, seed: int) -> Tensor:
    factor = family.pixels_per_latent(components.vae)
    shape = (len(CAPTIONS), components.vae.config.latent_channels, HEIGHT // factor, WIDTH // factor)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def diffusion(config: Any, clean: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """DDPM, arXiv 2006.11239, equation 4, and v-prediction, arXiv 2202.00512, appendix D."""
    assert config.beta_schedule == "scaled_linear"
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_train_timesteps).double() ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)[t].view(-1, 1, 1, 1)
    noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    target = {
        "epsilon": noise.double(),
        "sample": clean.double(),
        "v_prediction": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean,
    }[config.prediction_type]
    return noisy, target


def straight_line(config: Any, clean: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Noisy latents and target of rectified flow. arXiv 2209.03003, equation 1, with time from image to noise."""
    s = (t.double() / config.num_train_timesteps).view(-1, 1, 1, 1)
    return clean + s * (noise - clean), (noise - clean).double()


@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS], scope="session")
@torch.no_grad()
def test_the_loss_is_that_of_the_paper(family: ModelFamily, components: Components) -> None:
    clean, noise = latents_for(family, components, 0), latents_for(family, components, 1)
    prompts = prompts_of(family, components, *CAPTIONS)
    objective = family.objective(components.scheduler, LossConfig(weighting="none"))
    network = Network(family, components.denoiser)
    ours = denoising_loss(objective, lambda noisy, t: network(noisy, t, prompts), clean, noise, TIMESTEPS)
    formula = diffusion if family.scheduler_option == "beta_schedule" else straight_line
    noisy, target = formula(components.scheduler.config, clean, noise, TIMESTEPS)
    prediction = family.denoise(components.denoiser, noisy.float(), TIMESTEPS, prompts)
    torch.testing.assert_close(ours.double(), (prediction - target).square().mean((1, 2, 3)), rtol=1e-4, atol=0)
    assert objective.weight(TIMESTEPS).tolist() == [1, 1]


@pytest.mark.parametrize(("method", "lr"), [(LoRA(LoRAConfig(rank=4)), 1e-2), (Full(), 1e-3)], ids=["lora", "full"])
@pytest.mark.parametrize("text_encoder", [False, True], ids=["denoiser", "and text encoders"])
def test_two_steps_lower_the_loss(
    family: ModelFamily, components: Components, method: LoRA | Full, lr: float, text_encoder: bool
) -> None:
    clean, noise = latents_for(family, components, 0), latents_for(family, components, 1)
    objective = family.objective(components.scheduler, LossConfig(weighting="none"))
    method = replace(method, text_encoder=text_encoder)
    if text_encoder and isinstance(method, LoRA) and not family.reads_text_encoder_lora:
        with pytest.raises(ValueError, match=r"train\.text_encoder: .*--lora\.kind"):
            method.network(family, components)
        method = LoRA(LoRAConfig(kind="loha", rank=4), text_encoder)
    network = method.network(family, components)
    method.attach(network, seed=0)
    encoder = Encoder(family, components, torch.device("cpu"), text_encoder_is_trained=text_encoder)
    batch = Batch((0, 1), (0, 1), CAPTIONS, CAPTIONS, torch.ones(2), whole_sizes(2, HEIGHT, WIDTH), None, None, None)
    prompts = encoder.prompts(batch)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    found = []
    for _ in range(3):
        loss = denoising_loss(objective, lambda noisy, t: network(noisy, t, prompts), clean, noise, TIMESTEPS).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[2] < 0.999 * found[0]
    parts = {name.split(".lora_")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    expected = ["denoiser.", *(f"text_encoders.{number}." for number, _ in enumerate(network.text_encoders))]
    assert all(any(name.startswith(part) for name in parts) for part in expected), "each part learns"
