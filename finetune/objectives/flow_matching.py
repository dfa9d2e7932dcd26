"""Flow matching: the straight way from noise to an image. Axes as in diffusion.py; timesteps `t` are any number from 0,
a clean image, to num_train_timesteps, noise alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from finetune.config.loss import LossConfig
from finetune.objectives.diffusion import SPECIAL, pseudo_huber, refuse_options, refuse_timesteps_after
from finetune.objectives.noise import Noise, training_noise

"""torch gives the functions of this module no types."""


@dataclass(frozen=True)
class ResolutionShift:
    """A shift of timesteps that grows with the image. It is exp(mu), with mu linear in the number of patches
    (diffusers' FlowMatchEulerDiscreteScheduler with use_dynamic_shifting)."""

    base_patches: int
    max_patches: int
    base_mu: float
    max_mu: float
    patch: int
    """Latents along each side of a patch."""

    def at_size(self, size: tuple[int, int]) -> float:
        """Compute the shift for latents of that height and width."""
        patches = (size[0] // self.patch) * (size[1] // self.patch)
        slope = (self.max_mu - self.base_mu) / (self.max_patches - self.base_patches)
        return math.exp(self.base_mu + slope * (patches - self.base_patches))


@dataclass(frozen=True)
class FlowMatching:
    """Straight paths from image to noise (rectified flow, arXiv 2209.03003). Timesteps are sampled as in arXiv
    2403.03206: x_t = (1 - s) x_0 + s epsilon with s = t / num_train_timesteps. Raises ValueError where the options are
    those of diffusion."""

    num_train_timesteps: int
    shift: float | ResolutionShift
    options: LossConfig

    def __post_init__(self) -> None:
        given = self.options
        density = "logit_normal" if given.timestep_density == "auto" else given.timestep_density
        weighting = "none" if given.weighting == "auto" else given.weighting
        object.__setattr__(self, "options", replace(given, timestep_density=density, weighting=weighting))
        names = ("weighting", "snr_gamma", "p2_gamma", "p2_k", "zero_terminal_snr", "timestep_bias")
        weighed = replace(self.options, weighting=LossConfig.weighting) if weighting == "none" else self.options
        refuse_options(weighed, names, "flow matching", "models that predict noise, v or the image")
        refuse_timesteps_after(self.num_train_timesteps, given)

    @staticmethod
    def from_scheduler(scheduler: Mapping[str, Any], options: LossConfig, *, patch: int) -> "FlowMatching":
        """Read the objective from the config of a FlowMatchEulerDiscreteScheduler. A given loss.timestep_shift goes
        before its own. `patch` is the latents along each side of a patch."""
        shift: float | ResolutionShift = scheduler.get("shift", 1.0)
        if scheduler.get("use_dynamic_shifting"):
            patches = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
            shift = ResolutionShift(*patches, scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15), patch)
        if options.timestep_shift is not None:
            shift = options.timestep_shift
        return FlowMatching(scheduler["num_train_timesteps"], shift, options)

    def sample_timesteps(self, u: Tensor, size: tuple[int, int]) -> Tensor:
        """Map uniforms [B] in [0, 1) to timesteps from min_timestep to max_timestep. A larger u is a later timestep.
        They are the quantiles of s = sigmoid(mean + std * normal), or of s uniform, shifted to a s / (1 + (a - 1) s)
        (arXiv 2403.03206, sections 3.1 and 5.3.2)."""
        a = self.shift if isinstance(self.shift, float | int) else self.shift.at_size(size)
        lowest = (self.options.min_timestep or 0) / self.num_train_timesteps
        highest = 1.0
        if self.options.max_timestep is not None:
            highest = self.options.max_timestep / self.num_train_timesteps
        low, high = (self._probability(torch.tensor(s / (a - (a - 1) * s)).double()) for s in (lowest, highest))
        s = self._quantile(low + u.double() * (high - low))
        return (a * s / (1 + (a - 1) * s) * self.num_train_timesteps).float()

    def _quantile(self, u: Tensor) -> Tensor:
        if self.options.timestep_density == "uniform":
            return u
        normal: Tensor = SPECIAL.ndtri(u)
        return torch.sigmoid(self.options.logit_mean + self.options.logit_std * normal)

    def _probability(self, s: Tensor) -> Tensor:
        if self.options.timestep_density == "uniform":
            return s
        normal = (torch.logit(s) - self.options.logit_mean) / self.options.logit_std
        return SPECIAL.ndtr(normal)

    def draw_noise(self, noise: Noise, clean: Tensor) -> tuple[Tensor, Tensor]:
        return training_noise(noise, clean, self.options)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        s = self._share(clean, t)
        return (1 - s) * clean + s * noise

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Compute the velocity epsilon - x_0."""
        return noise - clean

    def error(self, prediction: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Square the error, or take its pseudo-Huber form. Its scheduled thresholds are those of `Diffusion` with t / T
        = s and sigma = s / (1 - s)."""
        squared = (prediction.float() - target.float()).square()
        if self.options.error == "mse":
            return squared
        s, c = t.to(squared.device).double() / self.num_train_timesteps, self.options.huber_c
        thresholds = {"constant": torch.full_like(s, c), "exponential": c**s, "snr": (1 - c) * (1 - s).square() + c}
        threshold = thresholds[self.options.huber_schedule].float()
        return pseudo_huber(squared, threshold.view(-1, *[1] * (squared.dim() - 1)))

    def weight(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float32)

    def plain(self) -> Self:
        """Make the objective of validation: all timesteps alike, none shifted."""
        return replace(self, shift=1.0, options=replace(self.options.plain(), timestep_density="uniform"))

    def _share(self, clean: Tensor, t: Tensor) -> Tensor:
        share = t.to(clean.device).double() / self.num_train_timesteps
        return share.view(-1, *[1] * (clean.dim() - 1)).to(clean.dtype)
