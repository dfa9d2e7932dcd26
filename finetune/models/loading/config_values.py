"""Refuse numbers in a checkpoint's configs that no model can have."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from finetune.models.family import ModelSource

MOST_TIMESTEPS = 100_000
"""A hundred times what published models have; the noise schedule is a table with a row for each."""


@dataclass(frozen=True)
class Expected:
    """The allowed values of a setting."""

    words: str
    fits: Callable[[object], bool]


def is_number(value: object) -> TypeGuard[float]:
    """Recognise finite numbers; true and false are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> TypeGuard[int]:
    """Recognise whole numbers from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


POSITIVE = Expected("a number above 0", lambda value: is_number(value) and value > 0)
NUMBER = Expected("a number", is_number)
BETA = Expected("a number between 0 and 1", lambda value: is_number(value) and 0 < value < 1)
COUNT = Expected("a whole number of at least 1", is_count)
FLAG = Expected("true or false", lambda value: isinstance(value, bool))
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp")
SPACINGS = ("leading", "trailing", "linspace")
SCHEDULER = {
    "beta_schedule": Expected(f"one of {', '.join(BETA_SCHEDULES)}", lambda value: value in BETA_SCHEDULES),
    "trained_betas": Expected(
        "a list of numbers between 0 and 1, or null",
        lambda value: value is None or (isinstance(value, list) and bool(value) and all(map(BETA.fits, value))),
    ),
    "num_train_timesteps": Expected(
        f"a whole number from 2 to {MOST_TIMESTEPS:,}", lambda value: is_count(value) and 2 <= value <= MOST_TIMESTEPS
    ),
    "beta_start": BETA,
    "beta_end": BETA,
    "rescale_betas_zero_snr": FLAG,
    "timestep_spacing": Expected(f"one of {', '.join(SPACINGS)}", lambda value: value in SPACINGS),
    "steps_offset": Expected("a whole number of at least 0", lambda value: value == 0 or is_count(value)),
    "clip_sample": FLAG,
    "set_alpha_to_one": FLAG,
    "use_dynamic_shifting": FLAG,
    "shift": POSITIVE,
    "base_shift": NUMBER,
    "max_shift": NUMBER,
    "base_image_seq_len": COUNT,
    "max_image_seq_len": COUNT,
}
VAE = {
    "scaling_factor": POSITIVE,
    "shift_factor": Expected("a number, or null", lambda value: value is None or is_number(value)),
    "latents_mean": Expected("null: latents are scaled by one number here", lambda value: value is None),
    "latents_std": Expected("null: latents are scaled by one number here", lambda value: value is None),
}


def refuse_scheduler_settings(settings: object, source: ModelSource) -> None:
    """Raise ValueError for a scheduler_config.json without a possible model."""
    file = f"scheduler/scheduler_config.json of {source.configs}"
    if not isinstance(settings, Mapping):
        raise ValueError(f"model.source: {file} is not a JSON object. Put back what was published with the model.")
    refuse_values(settings, SCHEDULER, file)
    for low, high in (("beta_start", "beta_end"), ("base_image_seq_len", "max_image_seq_len")):
        if low in settings and high in settings and not settings[low] < settings[high]:
            raise ValueError(
                f"model.source: {file} has {low} {settings[low]} and {high} {settings[high]}, expected the second to "
                "be larger. Put back what was published with the model."
            )


def refuse_vae_settings(settings: Mapping[str, object], source: ModelSource) -> None:
    """Raise ValueError for an autoencoder's config.json with useless latents."""
    refuse_values(settings, VAE, f"vae/config.json of {source.configs}")


def refuse_values(settings: Mapping[str, object], expected: Mapping[str, Expected], file: str) -> None:
    """Raise ValueError for the first invalid setting; absent ones keep defaults."""
    for name, allowed in expected.items():
        if name in settings and not allowed.fits(settings[name]):
            raise ValueError(
                f"model.source: {file} has {name} {settings[name]}, expected {allowed.words}. Put back what was "
                "published with the model."
            )
