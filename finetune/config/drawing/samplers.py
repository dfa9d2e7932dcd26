"""Names of samplers: those of A1111, sd-scripts, ComfyUI and diffusers; torch-free."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from finetune.config.parse.convert import suggestion


@dataclass(frozen=True)
class Sampler:
    """A scheduler class of diffusers with options."""

    title: str
    """A1111's name; for a class that it has no name for, that of the class."""
    scheduler: str
    """Name of the class for diffusion models; `finetune/models/samplers.py` has those of flow matching."""
    options: Mapping[str, object] = field(default_factory=dict[str, object])


KARRAS: Mapping[str, object] = {"use_karras_sigmas": True}
SDE: Mapping[str, object] = {"algorithm_type": "sde-dpmsolver++"}
SAMPLERS = (
    Sampler("DDPM", "DDPMScheduler"),
    Sampler("DDIM", "DDIMScheduler"),
    Sampler("PNDM", "PNDMScheduler"),
    Sampler("Euler", "EulerDiscreteScheduler"),
    Sampler("Euler Karras", "EulerDiscreteScheduler", KARRAS),
    Sampler("Euler a", "EulerAncestralDiscreteScheduler"),
    Sampler("Heun", "HeunDiscreteScheduler"),
    Sampler("Heun Karras", "HeunDiscreteScheduler", KARRAS),
    Sampler("LMS", "LMSDiscreteScheduler"),
    Sampler("LMS Karras", "LMSDiscreteScheduler", KARRAS),
    Sampler("DPM2", "KDPM2DiscreteScheduler"),
    Sampler("DPM2 Karras", "KDPM2DiscreteScheduler", KARRAS),
    Sampler("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
    Sampler("DPM2 a Karras", "KDPM2AncestralDiscreteScheduler", KARRAS),
    Sampler("DPM++ 2M", "DPMSolverMultistepScheduler"),
    Sampler("DPM++ 2M Karras", "DPMSolverMultistepScheduler", KARRAS),
    Sampler("DPM++ 2M SDE", "DPMSolverMultistepScheduler", SDE),
    Sampler("DPM++ 2M SDE Karras", "DPMSolverMultistepScheduler", {**SDE, **KARRAS}),
    Sampler("DPM++ SDE", "DPMSolverSinglestepScheduler", {**SDE, "lower_order_final": True}),
    Sampler("DPM++ SDE Karras", "DPMSolverSinglestepScheduler", {**SDE, **KARRAS, "lower_order_final": True}),
    Sampler("DEIS", "DEISMultistepScheduler"),
    Sampler("UniPC", "UniPCMultistepScheduler"),
    Sampler("UniPC Karras", "UniPCMultistepScheduler", KARRAS),
    Sampler("SA-Solver", "SASolverScheduler"),
    Sampler("LCM", "LCMScheduler"),
    Sampler("TCD", "TCDScheduler"),
)
ALIASES: Mapping[str, str] = {
    "plms": "PNDM",
    "eulerancestral": "Euler a",
    "dpmsolver": "DPM++ 2M",
    "dpmsolver++": "DPM++ 2M",
}
"""Other programs' names, without spaces and signs."""


def plain_name(name: str) -> str:
    """Return a name without case, spaces and signs. ComfyUI writes pp for ++, sd-scripts k_ before names."""
    text = re.sub(r"[\s_-]+", "", re.sub(r"^k_", "", name.strip().lower()))
    return text.replace("dpmpp", "dpm++")


def find_sampler(name: str) -> Sampler | None:
    """Find a sampler by its name. Other names may be those of diffusers' scheduler classes."""
    plain = plain_name(ALIASES.get(plain_name(name), name))
    for sampler in SAMPLERS:
        if plain in (plain_name(sampler.title), plain_name(sampler.scheduler)):
            return sampler
    return Sampler(name, name) if re.fullmatch(r"[A-Z]\w+Scheduler", name) else None


def sampler_named(name: str) -> Sampler:
    """Return the sampler of a name that was checked."""
    found = find_sampler(name)
    assert found is not None, name
    return found


def expected_samplers(name: str) -> str:
    """Describe what a sampler may be, for messages."""
    titles = [sampler.title for sampler in SAMPLERS]
    near = suggestion(name, titles)
    return f"a scheduler class of diffusers or one of {', '.join(titles)}.{near}".removesuffix(".")
