"""The options of the optimizer; no torch here."""

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["adamw", "adamw8bit", "paged_adamw8bit", "lion8bit", "adafactor", "prodigy", "adamw_schedule_free"]
Schedule = Literal["constant", "cosine", "linear"]
Weights = Literal["fp32", "bf16_stochastic", "bf16_kahan"]

ALL_AT_ONCE = ("prodigy", "adamw_schedule_free")
"""Optimizers that keep a number for all parameters together, and so cannot step one of them alone."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning rate."""

    name: Optimizer = "adamw"
    """Optimizer; the 8bit ones come from bitsandbytes."""
    lr: float = 1e-4
    """Peak learning rate of the denoiser; prodigy wants 1.0."""
    text_encoder_lr: float | None = None
    """Peak learning rate of a trained text encoder; none takes lr."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    beta1: float = 0.9
    """Decay of the gradient average."""
    beta2: float = 0.999
    """Decay of the squared-gradient average."""
    schedule: Schedule = "constant"
    """Shape of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0 to its peak."""
    final_lr_ratio: float = 0.0
    """Learning rate that cosine and linear fall to, over its peak."""
    weights: Weights = "fp32"
    """Number format of the trained weights and their gradients: bf16 halves their memory; updates are then rounded at
    random (stochastic) or with a second bfloat16 number per weight (kahan), so small ones are not lost."""
    in_backward: bool = False
    """Update each weight as soon as its gradient is there and free the gradient; one process, no accumulation, no
    clipping."""

    def problems(self) -> list[str]:
        found = []
        if self.lr <= 0:
            found.append(f"optim.lr: got {self.lr}, expected a number above 0.")
        if self.text_encoder_lr is not None and self.text_encoder_lr <= 0:
            found.append(f"optim.text_encoder_lr: got {self.text_encoder_lr}, expected a number above 0 or none.")
        if self.weight_decay < 0:
            found.append(f"optim.weight_decay: got {self.weight_decay}, expected 0 or more.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            found.append(f"optim.beta1, beta2: got {self.beta1}, {self.beta2}, expected numbers from 0 to below 1.")
        if self.warmup_steps < 0:
            found.append(f"optim.warmup_steps: got {self.warmup_steps}, expected 0 or more.")
        if not 0 <= self.final_lr_ratio <= 1:
            found.append(f"optim.final_lr_ratio: got {self.final_lr_ratio}, expected a share from 0 to 1.")
        if self.name == "adamw_schedule_free" and self.schedule != "constant":
            found.append(
                f"optim.schedule: got {self.schedule} with adamw_schedule_free, which replaces a schedule; use "
                "constant."
            )
        if self.name in ALL_AT_ONCE:
            for key, given, default in (("weights", self.weights, "fp32"), ("in_backward", self.in_backward, False)):
                if given != default:
                    found.append(
                        f"optim.{key}: got {str(given).lower()} with {self.name}, which cannot update one weight "
                        "without the others. Use adamw, adamw8bit, paged_adamw8bit, lion8bit or adafactor."
                    )
        return found
