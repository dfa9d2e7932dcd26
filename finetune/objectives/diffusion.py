"""Noising, target and loss weight of diffusion, for all families and methods. Axes: B batch, C channels, H W latent
height and width. Timesteps `t` are whole steps 0 .. num_train_timesteps - 1 of diffusion; those of flow matching are
any number up to num_train_timesteps."""

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, cast

import torch
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.objectives.mask import LossMask, Predict
from finetune.objectives.noise import Noise, training_noise

SPECIAL = cast("Any", torch.special)  # its functions have no annotations

PredictionType = Literal["epsilon", "v_prediction", "sample"]
MIN_SNR = 1e-5
"""Debiased estimation divides by no less than the root of this; linear and scaled-linear schedules of 1000 steps end
above it, those of zero terminal SNR do not."""


class Objective(Protocol):
    """Noise, target, error and weight of one training objective."""

    @property
    def options(self) -> LossConfig:
        """The options it was made with. Nothing is left to be chosen by itself."""
        ...

    def sample_timesteps(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Map uniforms [B] in [0, 1) to timesteps [B]. `size` is the height and width of the latents."""
        ...

    def draw_noise(self, noise: Noise, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the noise of the target and that of the input. Both are [B C H W]."""
        ...

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Make noisy latents [B C H W] at timesteps t [B]."""
        ...

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Compute what the network should predict, [B C H W]."""
        ...

    def error(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Compare each value at timesteps t [B], float32 [B C H W]."""
        ...

    def weight(self, t: Tensor) -> Tensor:
        """Weigh the loss of each timestep, [B]."""
        ...

    def plain(self) -> "Objective":
        """Make the objective of validation. It has plain noise and squared errors at all timesteps."""
        ...


@dataclass(frozen=True)
class Diffusion:
    """Variance-preserving diffusion: DDPM (arXiv 2006.11239), v-prediction (arXiv 2202.00512). alphas_cumprod: the
    products alpha_bar_t, [T] float64. Raises ValueError where the options ask for timesteps that the schedule does not
    have."""

    alphas_cumprod: Tensor
    prediction_type: PredictionType
    options: LossConfig

    def __post_init__(self) -> None:
        if self.options.weighting == "auto":
            object.__setattr__(self, "options", replace(self.options, weighting="min_snr"))
        this = f"a model that predicts {self.prediction_type}"
        refuse_options(self.options, ("timestep_shift",), this, "flow matching")
        if self.options.timestep_density != "logit_normal":
            refuse_options(self.options, ("logit_mean", "logit_std"), this, "--loss.timestep_density logit_normal")
        elif self.options.timestep_bias != "none":
            raise ValueError(
                f"loss.timestep_bias: got {self.options.timestep_bias} with timestep_density logit_normal; each says "
                "how timesteps are drawn. Remove one of them."
            )
        refuse_timesteps_after(len(self.alphas_cumprod) - 1, self.options)

    def sample_timesteps(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Map uniforms [B] in [0, 1) to timesteps min_timestep .. max_timestep. A larger u is a later timestep.

        Of n timesteps in that range, the first m are drawn with probability m / n; with timestep_bias style, which
        draws more of the clean ones, with probability (m / n)^(1/3) (density s^(-2/3) / 3 at s = m / n); with content,
        which draws more of the noisy ones, 1 - (1 - m / n)^(1/3) (density (1 - s)^(-2/3) / 3), the cubic sampling of
        T2I-Adapter (arXiv 2302.08453). With timestep_density logit_normal s is sigmoid(mean + std * normal) (arXiv
        2403.03206, section 3.1).
        """
        low = self.options.min_timestep or 0
        high = len(self.alphas_cumprod) - 1 if self.options.max_timestep is None else self.options.max_timestep
        num = high - low + 1
        if self.options.timestep_bias == "style":
            u = u**3
        elif self.options.timestep_bias == "content":
            u = 1 - (1 - u) ** 3
        elif self.options.timestep_density == "logit_normal":
            normal: Tensor = SPECIAL.ndtri(u.double())
            u = torch.sigmoid(self.options.logit_mean + self.options.logit_std * normal)
        return low + (u * num).long().clamp(max=num - 1)

    def draw_noise(self, noise: Noise, clean: Tensor) -> tuple[Tensor, Tensor]:
        return training_noise(noise, clean, self.options)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Compute sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon (DDPM, eq. 4)."""
        signal, sigma = self._scales(clean, t)
        return signal * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Choose epsilon, x_0, or v. v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x_0 (arXiv 2202.00512, appendix
        D)."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        signal, sigma = self._scales(clean, t)
        return signal * noise - sigma * clean

    def error(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Square the error, or take its pseudo-Huber form. That has a threshold for each timestep."""
        squared = (prediction.float() - target.float()).square()
        if self.options.error == "mse":
            return squared
        threshold = self._huber_threshold(t.to(squared.device)).float()
        return pseudo_huber(squared, threshold.view(-1, *[1] * (squared.dim() - 1)))

    def _huber_threshold(self, t: Tensor) -> Tensor:
        """Compute the threshold of each timestep, [B]. It is c; c^(t / T) (Improving Diffusion Models's Data-Corruption
        Resistance using Scheduled Pseudo-Huber Loss, arXiv 2403.16728); or (1 - c) / (1 + sigma)^2 + c with sigma^2 = 1
        / SNR, which falls where the schedule's noise rises (diffusers' scheduled_huber_loss_training)."""
        c = self.options.huber_c
        if self.options.huber_schedule == "exponential":
            return c ** (t.double() / len(self.alphas_cumprod))
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        if self.options.huber_schedule == "constant":
            return torch.full_like(alpha_bar, c)
        clean_share = alpha_bar / (alpha_bar.sqrt() + (1 - alpha_bar).sqrt()).square()  # 1 / (1 + sigma)^2
        return (1 - c) * clean_share + c

    def weight(self, t: Tensor) -> Tensor:
        """Turn the weight for epsilon into that of the prediction. That is times SNR for x_0, and times SNR / (SNR + 1)
        for v: a network that is off by delta in x_0 is off by sqrt(SNR) delta in epsilon and by sqrt(SNR + 1) delta in
        v (arXiv 2303.09556, section 3.4). At zero terminal SNR the last timestep of v and x_0 therefore weighs 0."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t]
        if self.options.weighting == "none":
            return torch.ones_like(alpha_bar, dtype=torch.float32)
        snr = alpha_bar / (1 - alpha_bar)
        in_epsilon = epsilon_weight(snr, self.options)
        if self.prediction_type == "epsilon":
            return in_epsilon.float()
        in_sample = in_epsilon * snr
        return (in_sample / (snr + 1) if self.prediction_type == "v_prediction" else in_sample).float()

    def plain(self) -> Self:
        return replace(self, options=self.options.plain())

    def _scales(self, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod.to(clean.device)[t].view(-1, *[1] * (clean.dim() - 1))
        return alpha_bar.sqrt().to(clean.dtype), (1 - alpha_bar).sqrt().to(clean.dtype)


def refuse_options(options: LossConfig, names: tuple[str, ...], this: str, those: str) -> None:
    """Refuse the first given option of `names`. Only `those` know it."""
    for name in names:
        if getattr(options, name) != getattr(LossConfig, name):
            raise ValueError(f"loss.{name}: got {getattr(options, name)} for {this}; only {those} know it. Remove it.")


def refuse_timesteps_after(last: int, options: LossConfig) -> None:
    """Refuse a trained range beyond the last timestep."""
    for name, value in (("min", options.min_timestep), ("max", options.max_timestep)):
        if value is not None and value > last:
            raise ValueError(
                f"loss.{name}_timestep: got {value}, but the last timestep of the checkpoint's scheduler is {last}. "
                "Lower it, or remove it."
            )


def epsilon_weight(snr: Tensor, options: LossConfig) -> Tensor:
    """Weigh the squared error in epsilon by the signal-to-noise ratio [B]. The weight is finite at SNR 0.

    min_snr: min(SNR, gamma) / SNR (Min-SNR weighting, arXiv 2303.09556, section 3.4).
    soft_min_snr: 1 / (1 / SNR + 1 / gamma) in x_0, here gamma / (SNR + gamma) (Hourglass Diffusion Transformers, arXiv
    2401.11605, as in k-diffusion with sigma_data^2 = 1 / gamma).
    debiased: 1 / sqrt(SNR) (Debias the Training of Diffusion Models, arXiv 2310.08442).
    p2: 1 / (k + SNR)^gamma (Perception Prioritized Training of Diffusion Models, arXiv 2204.00227).
    """
    match options.weighting:
        case "min_snr":
            return (options.snr_gamma / snr).clamp(max=1)  # 1 where SNR is 0
        case "soft_min_snr":
            return options.snr_gamma / (snr + options.snr_gamma)
        case "debiased":
            return snr.clamp(min=MIN_SNR).rsqrt()
        case "p2":
            return (options.p2_k + snr) ** -options.p2_gamma
        case "auto" | "none":
            raise AssertionError("without weighting nothing is asked for here")


def pseudo_huber(squared: Tensor, threshold: Tensor) -> Tensor:
    """Compute the pseudo-Huber form of squared errors. It is 2 c^2 (sqrt(1 + x^2 / c^2) - 1), so x^2 for small x and 2
    c |x| for large; c is the threshold. Twice the loss of arXiv 2403.16728, so small errors count as in the mean
    squared error; written without a difference of near equals."""
    return 2 * squared / (1 + (1 + squared / threshold.square()).sqrt())


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale the schedule [T] to a last SNR of 0. That is arXiv 2305.08891, algorithm 1."""
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()


def denoising_loss(
    objective: Objective,
    predict: Predict,
    clean: Tensor,
    noise: Tensor,
    t: Tensor,
    *,
    noise_in_input: Tensor | None = None,
    mask: LossMask | None = None,
) -> Tensor:
    """Compute the unweighted loss of each sample, float32 [B]. It is the mean error of predict(noisy, t) to the target,
    changed by the mask. noise_in_input: the noise [B C H W] of the noisy latents where it is not that of the target."""
    noisy = objective.add_noise(clean, noise if noise_in_input is None else noise_in_input, t)
    base = mask and mask.base_prediction(noisy, t)
    prediction = predict(noisy, t)
    errors = objective.error(prediction, objective.target(clean, noise, t), t)
    if mask is not None:
        errors = mask.apply(errors, None if base is None else objective.error(prediction, base, t))
    return errors.flatten(1).mean(1)


def reconstruction_loss(
    decoded: Tensor, pixels: Tensor, mean: Tensor, logvar: Tensor, *, kl_weight: float, edge_weight: float
) -> Tensor:
    """Compute an autoencoder's loss of each sample, float32 [B].

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
