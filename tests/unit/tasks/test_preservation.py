import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from finetune.batches.batch import Batch
from finetune.batches.encoder import Encoder
from finetune.config.lora import LoRAConfig
from finetune.config.loss import LossConfig
from finetune.methods.full import Full
from finetune.methods.lora.method import LoRA
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, Network
from finetune.models.prompts import Prompts, whole_sizes
from finetune.tasks.base import TaskContext
from finetune.tasks.preservation import AdaptersOff, MakePreserving, Preserving
from tests.tiny.components import components_of
from tests.tiny.sd import build_pipeline

CAPTIONS = ("a zkw circle", "a zkw circle on white paper, " * 12)
CLASS = "a circle"


def components() -> Components:
    return components_of(build_pipeline(size="micro"))


def attached(method: LoRA | Full) -> tuple[Components, Network]:
    parts = components()
    network = method.network(StableDiffusion(), parts)
    method.attach(network, 0)
    return parts, network


@torch.no_grad()
def train_a_little(network: Network) -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def example() -> tuple[Tensor, Tensor, Batch]:
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = Batch((0, 1), (0, 1), CAPTIONS, ("a", "b"), torch.ones(2), whole_sizes(2, 16, 16), latents, None, None)
    return torch.tensor([0.3, 0.8], dtype=torch.float64), noise, batch


def task_of(method: LoRA | Full, parts: Components, network: Network) -> Preserving:
    family = StableDiffusion()
    encoder = Encoder(family, parts, torch.device("cpu"), text_encoder_is_trained=method.text_encoder)
    objective = family.objective(parts.scheduler, LossConfig())
    context = TaskContext(objective, encoder, network, torch.float32, {CLASS: encoded(parts, (CLASS,))})
    task = MakePreserving(CLASS, 0.7, isinstance(method, LoRA))(context)
    assert isinstance(task, Preserving)
    return task


def encoded(parts: Components, texts: tuple[str, ...]) -> Prompts:
    family = StableDiffusion()
    with torch.no_grad():
        return family.encode_prompts(parts.text_encoders, family.tokenize(parts.tokenizers, texts))


@pytest.mark.parametrize(("text_encoder", "cached"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("method", [LoRA(LoRAConfig(rank=4, dropout=0.5)), Full()])
def test_the_loss_is_both_squared_distances(method: LoRA | Full, text_encoder: bool, cached: bool) -> None:
    method = replace(method, text_encoder=text_encoder)
    parts, network = attached(method)
    task = task_of(method, parts, network)
    train_a_little(network)
    network.eval()
    u, noise, batch = example()
    if cached:
        batch = replace(batch, prompts=encoded(parts, CAPTIONS))
    losses = task.losses(network, task.inputs(batch), u, lambda shape, draw="": noise)

    untouched, family = components(), StableDiffusion()
    alphas = parts.scheduler.alphas_cumprod.double()
    for number in range(2):
        t = (u[number : number + 1] * 1000).long()
        assert batch.latents is not None
        noisy = (alphas[t].sqrt() * batch.latents[number] + (1 - alphas[t]).sqrt() * noise[number]).float()[None]
        with torch.no_grad():
            own = network.denoiser(noisy, t, encoded(parts, (CAPTIONS[number],)).embeddings).sample
            of_class = network.denoiser(noisy, t, encoded(parts, (CLASS,)).embeddings).sample
            kept = family.denoise(untouched.denoiser, noisy, t, encoded(untouched, (CLASS,)))
        expected = (own - noise[number]).square().mean() + 0.7 * (of_class - kept).square().mean()
        assert float((of_class - kept).square().mean()) > 1e-4
        assert losses.unweighted[number].item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_with_adapters_off_the_prediction_is_the_untouched_models_bit_for_bit(text_encoder: bool) -> None:
    parts, network = attached(LoRA(LoRAConfig(rank=4, dropout=0.5), text_encoder))
    train_a_little(network)
    network.train()
    untouched, family = components(), StableDiffusion()
    tokens = family.tokenize(parts.tokenizers, CAPTIONS)
    prompts = tokens if text_encoder else encoded(untouched, CAPTIONS)
    noisy, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 900])
    expected = family.denoise(untouched.denoiser, noisy, t, encoded(untouched, CAPTIONS))
    assert torch.equal(AdaptersOff().predict(network, noisy, t, prompts), expected)
    assert not torch.equal(network(noisy, t, prompts), expected)


def test_at_the_start_the_class_costs_nothing() -> None:
    """LoRA starts as the base model, so only the subject's loss remains."""
    method = LoRA(LoRAConfig(rank=4))
    parts, network = attached(method)
    task = task_of(method, parts, network)
    u, noise, batch = example()
    losses = task.losses(network, task.inputs(batch), u, lambda shape, draw="": noise)
    own = task.denoising.losses(network, task.denoising.inputs(batch), u, lambda shape, draw="": noise)
    torch.testing.assert_close(losses.unweighted, own.unweighted, rtol=1e-5, atol=0)


def test_the_frozen_copy_says_its_size_and_does_not_follow(capsys: pytest.CaptureFixture[str]) -> None:
    method = Full(text_encoder=True)
    parts, network = attached(method)
    task_of(method, parts, network)
    assert "second copy of the model: 0.00 GB" in capsys.readouterr().out
    before = copy.deepcopy(network.state_dict())
    task = task_of(method, parts, network)
    train_a_little(network)
    assert all(torch.equal(v, before[k]) for k, v in task.base_model.network.state_dict().items())  # pyright: ignore[reportAttributeAccessIssue]
