"""The loss of images that are trained on in part. Axes: B batch, C channels, H W latent height and width."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]
"""Returns the prediction [B C H W] for noisy latents [B C H W] at timesteps t [B]."""


@dataclass(frozen=True)
class LossMask:
    """Weights of the errors of a batch by position.

    Each position's error counts by m + outside_weight (1 - m), and prior_weight (1 - m) times the same error to the
    base model's prediction is added. The mean is taken over the whole image, not over the mask: every position of a
    mask counts the same in any image, a large mask for more than a small one, and a crop without any of the mask for
    nothing instead of dividing by zero.
    """

    inside: Tensor
    """[B 1 H W], m: 1 where the image is trained on, 0 outside."""
    outside_weight: float
    prior_weight: float = 0.0
    predict_base: Predict | None = None
    """Needed for a prior_weight above 0."""

    def base_prediction(self, noisy: Tensor, t: Tensor) -> Tensor | None:
        """Return the base model's prediction, without gradient, if needed."""
        if self.prior_weight == 0:
            return None
        assert self.predict_base is not None
        with torch.no_grad():
            return self.predict_base(noisy, t).float()

    def apply(self, errors: Tensor, prior_errors: Tensor | None) -> Tensor:
        """Weight the errors [B C H W] to the target. `prior_errors` are those to the base model's prediction."""
        outside = 1 - self.inside
        masked = errors * (self.inside + self.outside_weight * outside)
        return masked if prior_errors is None else masked + self.prior_weight * outside * prior_errors
