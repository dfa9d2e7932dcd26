"""What the network learns: noising, target and loss weight, independent of model family and tuning method.

Axes: B batch, C channels, H W latent height and width. Timesteps `t` are whole steps 0 .. num_train_timesteps - 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample"]


class Objective(Protocol):
    """Noise, target and weight of one training objective."""

    def sample_timesteps(self, u: Tensor) -> Tensor:
        """Maps uniforms [B] in [0, 1) to timesteps [B]."""
        ...

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Returns the noisy latents [B C H W] at timesteps t [B]."""
        ...

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Returns what the network should predict, [B C H W]."""
        ...

    def weight(self, t: Tensor) -> Tensor:
        """Returns the loss weight of each timestep, [B]."""
        ...


@dataclass(frozen=True)
class Diffusion:
    """Variance-preserving diffusion: DDPM (arXiv 2006.11239), v-prediction (arXiv 2202.00512), min-SNR (arXiv
    2303.09556).

    alphas_cumprod: the products alpha_bar_t, [T] float64.
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType
    snr_gamma: float | None

    def sample_timesteps(self, u: Tensor) -> Tensor:
        num_timesteps = len(self.alphas_cumprod)
        return (u * num_timesteps).long().clamp(max=num_timesteps - 1)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """q(x_t | x_0) of DDPM, eq. 4: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon."""
        signal, sigma = self._scales(clean, t)
        return signal * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """epsilon, x_0, or v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0 (arXiv 2202.00512, appendix D)."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        signal, sigma = self._scales(clean, t)
        return signal * noise - sigma * clean

    def weight(self, t: Tensor) -> Tensor:
        """Min-SNR weight: min(SNR, gamma) in units of x_0, divided by SNR for epsilon and by SNR + 1 for v (arXiv
        2303.09556, section 3.4). At zero terminal SNR the v weight of the last timestep is therefore 0."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        if self.snr_gamma is None:
            return torch.ones_like(alpha_bar, dtype=torch.float32)
        snr = alpha_bar / (1 - alpha_bar)
        if self.prediction_type == "epsilon":
            return (self.snr_gamma / snr).clamp(max=1).float()  # min(SNR, gamma) / SNR, and 1 where SNR is 0
        clipped = snr.clamp(max=self.snr_gamma)
        return (clipped / (snr + 1) if self.prediction_type == "v_prediction" else clipped).float()

    def _scales(self, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod.to(clean.device)[t].view(-1, *[1] * (clean.dim() - 1))
        return alpha_bar.sqrt().to(clean.dtype), (1 - alpha_bar).sqrt().to(clean.dtype)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Returns the schedule [T] shifted and scaled so that its last SNR is 0 (arXiv 2305.08891, algorithm 1)."""
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def denoising_loss(
    objective: Objective, predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor, noise: Tensor, t: Tensor
) -> Tensor:
    """Returns the unweighted loss of each sample, float32 [B]: the mean squared error of predict(noisy, t) to the
    target."""
    prediction = predict(objective.add_noise(clean, noise, t), t)
    return (prediction.float() - objective.target(clean, noise, t).float()).square().flatten(1).mean(1)


def reconstruction_loss(
    decoded: Tensor, pixels: Tensor, mean: Tensor, logvar: Tensor, *, kl_weight: float, edge_weight: float
) -> Tensor:
    """Returns an autoencoder's loss of each sample, float32 [B].

    Mean absolute and mean squared error of the pixels [B 3 h w], the mean absolute error of the differences between
    neighbouring pixels, along both axes (thin lines are edges, and errors that are blurred over an area are not), and
    the divergence of the latents' posterior N(mean, exp(logvar)) [B C H W] from N(0, 1), in nats a pixel value (the
    variational bound of arXiv 1312.6114, appendix B, with a weight).
    """
    error, mean, logvar = decoded.float() - pixels.float(), mean.float(), logvar.float()
    edges = error.diff(dim=3).abs().flatten(1).mean(1) + error.diff(dim=2).abs().flatten(1).mean(1)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1) / error[0].numel()
    flat = error.flatten(1)
    return flat.abs().mean(1) + flat.square().mean(1) + edge_weight * edges + kl_weight * divergence
