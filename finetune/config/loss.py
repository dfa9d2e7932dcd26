"""The options of the objective; no torch here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from finetune.config.facts import ActsWith, CountOrZero, NotNegative, Positive, ShareBelowOne, at_least


@dataclass(frozen=True)
class LossConfig:
    """Objective, loss and noise. Validation always uses the mean squared error of plain noise at all timesteps."""

    prediction_type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"] | None = None
    """What the network predicts; none reads it from the checkpoint: from its scheduler, or from marks in a single file.
    Another value must agree with those, or describe a single file without marks."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule to zero terminal SNR (arXiv 2305.08891); needs a v-prediction model."""
    weighting: Literal["auto", "min_snr", "soft_min_snr", "debiased", "p2", "none"] = "auto"
    """Weight of each timestep: min-SNR (arXiv 2303.09556), its smooth variant (arXiv 2401.11605), debiased estimation
    (arXiv 2310.08442), P2 (arXiv 2204.00227); none weighs all timesteps equally; auto is min_snr, and none for flow
    matching, which knows no other."""
    snr_gamma: Annotated[Positive, ActsWith("weighting", "auto", "min_snr", "soft_min_snr")] = 5.0
    """Gamma of min_snr and soft_min_snr: the signal-to-noise ratio from which weights no longer grow."""
    p2_gamma: Annotated[NotNegative, ActsWith("weighting", "p2")] = 1.0
    """Exponent of p2; larger values ignore more of the nearly clean timesteps."""
    p2_k: Annotated[Positive, ActsWith("weighting", "p2")] = 1.0
    """Constant of p2 beside the signal-to-noise ratio; keeps the weights of nearly clean timesteps finite."""
    error: Literal["mse", "huber"] = "mse"
    """Error of a value: squared, or pseudo-Huber, squared below a threshold and straight above it, so odd images
    pull less (arXiv 2403.16728)."""
    huber_c: Annotated[Positive, ActsWith("error", "huber")] = 0.1
    """Threshold of huber at the noisiest timestep."""
    huber_schedule: Annotated[Literal["constant", "exponential", "snr"], ActsWith("error", "huber")] = "snr"
    """Threshold of huber at the other timesteps: the same, or falling from 1 at the clean end, as a power of t / T or
    with the signal-to-noise ratio."""
    offset_noise: NotNegative = 0.0
    """Standard deviation of noise that is one number per channel, added to the usual noise: lets brightness be learned;
    0.05 to 0.1 is usual, 0 turns it off."""
    pyramid_noise: ShareBelowOne = 0.0
    """Multi-resolution noise: the share of each coarser level to the one before it; 0.3 to 0.9 is usual, 0 is off."""
    input_perturbation: NotNegative = 0.0
    """Standard deviation of noise in the input alone, not in the target (arXiv 2301.11706, which uses 0.1); 0 is
    off."""
    nearest_noise: Annotated[int, at_least(1, "draws")] = 1
    """Draws of noise of which the one nearest to the image is used (immiscible diffusion, arXiv 2406.12303 and
    2505.18521); 1 uses the only draw."""
    min_timestep: CountOrZero | None = None
    """Cleanest timestep that is trained; none is 0."""
    max_timestep: int | None = None
    """Noisiest timestep that is trained; none is the last."""
    timestep_bias: Literal["none", "content", "style"] = "none"
    """Draw noisy timesteps more often, which set what is where (content), or clean ones, which set textures (style)."""
    timestep_density: Literal["auto", "uniform", "logit_normal"] = "auto"
    """How timesteps are drawn: auto is logit_normal (arXiv 2403.03206) for flow matching, which then shifts them, and
    uniform for other models. With logit_normal and logit_mean 0.6 half of the timesteps are after 650 of 1000, where
    a prompt decides what is where."""
    logit_mean: Annotated[float, ActsWith("timestep_density", "auto", "logit_normal")] = 0.0
    """Mean of the logit; above 0 draws noisy timesteps more often."""
    logit_std: Annotated[Positive, ActsWith("timestep_density", "auto", "logit_normal")] = 1.0
    """Standard deviation of the logit; larger draws the ends more often."""
    timestep_shift: Positive | None = None
    """Shift of flow matching's timesteps towards noise; 1 shifts nothing, none takes the checkpoint's."""

    def problems(self) -> Iterator[str]:
        if self.huber_schedule != "constant" and self.huber_c > 1:
            yield (
                f"loss.huber_c: got {self.huber_c} with huber_schedule {self.huber_schedule}, which falls from 1 to "
                "it; expected at most 1. Lower it, or add --loss.huber_schedule constant."
            )
        lowest = self.min_timestep or 0
        if self.max_timestep is not None and self.max_timestep < max(lowest, 0):
            yield (
                f"loss.max_timestep: got {self.max_timestep}, expected at least loss.min_timestep {lowest}, or none."
            )

    def plain(self) -> "LossConfig":
        """Return the loss options of validation. Those of errors, noise and timesteps are reset, so runs compare."""
        kept = ("prediction_type", "zero_terminal_snr", "weighting", "snr_gamma", "p2_gamma", "p2_k")
        return LossConfig(**{name: getattr(self, name) for name in kept})
