"""The options of the objective; no torch here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LossConfig:
    """Objective and loss weight."""

    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the network predicts; none reads it from the checkpoint's scheduler, anything else must agree with it."""
    snr_gamma: float | None = 5.0
    """Gamma of min-SNR weighting (arXiv 2303.09556); none weighs all timesteps equally."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule to zero terminal SNR (arXiv 2305.08891); needs a v-prediction model."""

    def problems(self) -> list[str]:
        if self.snr_gamma is not None and self.snr_gamma <= 0:
            return [f"loss.snr_gamma: got {self.snr_gamma}, expected a number above 0 or none."]
        return []
