import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from finetune.config.pretrain import ArchitectureConfig
from finetune.models.family import AutoencoderNetwork
from finetune.models.scratch import new_vae
from finetune.objectives.diffusion import reconstruction_loss
from finetune.tasks.reconstruction import Reconstruction

SMALL = ArchitectureConfig(vae_channels=(8, 16), latent_channels=4)


def rand(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_that_of_diffusers() -> None:
    pixels, moments = rand(3, 3, 8, 8, seed=0), rand(3, 8, 4, 4, seed=1)
    posterior = DiagonalGaussianDistribution(moments)
    ours = reconstruction_loss(pixels, pixels, posterior.mean, posterior.logvar, kl_weight=1.0, edge_weight=0.0)
    torch.testing.assert_close(ours, posterior.kl() / (3 * 8 * 8))


def test_pixels_count_by_their_absolute_and_squared_error_and_edges_by_their_differences() -> None:
    """A step of 0.5 down the middle of 4x4 pixels. It is in one of three columns of differences."""
    pixels, decoded, zero = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 2, 2)
    decoded[..., 2:] = 0.5
    plain = reconstruction_loss(decoded, pixels, zero, zero, kl_weight=1.0, edge_weight=0.0)
    edges = reconstruction_loss(decoded, pixels, zero, zero, kl_weight=1.0, edge_weight=2.0)
    assert plain.item() == pytest.approx(0.5 * 0.5 + 0.5 * 0.25)
    assert (edges - plain).item() == pytest.approx(2.0 * 0.5 / 3)


def test_a_blurred_line_costs_more_than_the_same_error_spread_evenly() -> None:
    pixels = torch.zeros(1, 3, 8, 8)
    line, flat = pixels.clone(), pixels.clone()
    line[..., 4] = 0.8
    flat += 0.1
    zero = torch.zeros(1, 4, 2, 2)
    costs = [
        reconstruction_loss(x, pixels, zero, zero, kl_weight=0.0, edge_weight=1.0).item()
        - reconstruction_loss(x, pixels, zero, zero, kl_weight=0.0, edge_weight=0.0).item()
        for x in (line, flat)
    ]
    assert costs[0] > 0.1 and costs[1] == pytest.approx(0, abs=1e-6)


def test_the_task_decodes_the_posteriors_sample_as_diffusers_does() -> None:
    torch.manual_seed(0)
    vae = new_vae(SMALL, 16).eval()
    pixels, noise = rand(2, 3, 16, 16, seed=2), rand(2, 4, 8, 8, seed=3)
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    expected = reconstruction_loss(decoded, pixels, posterior.mean, posterior.logvar, kl_weight=0.1, edge_weight=0.2)
    task = Reconstruction(latent_channels=4, pixel_multiple=2, kl_weight=0.1, edge_weight=0.2)
    asked = []

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        asked.append(tuple(shape))
        return noise

    found = task.losses(AutoencoderNetwork(vae), pixels, torch.zeros(2), draw)
    torch.testing.assert_close(found.unweighted, expected)
    assert asked == [(4, 8, 8)] and found.weight.tolist() == [1, 1]
