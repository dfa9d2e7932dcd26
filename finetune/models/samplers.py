"""Schedulers of diffusers by the names of config/drawing/samplers.py."""

import inspect
from typing import Any, cast

from diffusers import schedulers as diffusers_schedulers
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from finetune.config.drawing.samplers import SAMPLERS, Sampler, sampler_named
from finetune.models.family import ModelFamily
from finetune.models.interfaces import Scheduler

FLOW_MATCHING = {
    "EulerDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler": "FlowMatchHeunDiscreteScheduler",
    "LCMScheduler": "FlowMatchLCMScheduler",
}
"""The class of flow matching that stands for one of diffusion."""
ALSO_DIFFUSION = ("LCMScheduler", "TCDScheduler", "SASolverScheduler")
"""Those that diffusers does not list among the compatible ones of its diffusion schedulers."""
ZERO_SNR = "rescale_betas_zero_snr"


def with_sampler(family: ModelFamily, scheduler: Scheduler, name: str | None) -> Scheduler:
    """Return the scheduler of a sampler, with the checkpoint's settings. None is a fresh copy of the given one. Raises
    ValueError where it does not fit, with those that do."""
    if name is None:
        return cast("Scheduler", type(cast("Any", scheduler)).from_config(scheduler.config))
    found = fitting(family, scheduler, sampler_named(name))
    if found is None:
        known = ", ".join(s.title for s in SAMPLERS if fitting(family, scheduler, s) is not None)
        raise ValueError(f"sampler: {name} does not fit {family.title} with this checkpoint's scheduler. Use {known}.")
    return found


def fitting(family: ModelFamily, scheduler: Scheduler, sampler: Sampler) -> Scheduler | None:
    """Return the sampler's scheduler for a checkpoint. It is None where it does not fit."""
    is_flow = is_flow_matching(scheduler)
    name = FLOW_MATCHING.get(sampler.scheduler, sampler.scheduler) if is_flow else sampler.scheduler
    kind = scheduler_named(name)
    if kind is None or name in family.unfit_samplers:
        return None
    options = flow_options(kind, scheduler) if is_flow else diffusion_options(kind, scheduler)
    known = inspect.signature(kind).parameters
    if options is None or not set(sampler.options) <= set(known):
        return None
    if options.get("use_flow_sigmas") and sampler.options.get("use_karras_sigmas"):
        return None  # diffusers takes one kind of sigmas
    return cast("Scheduler", cast("Any", kind).from_config(scheduler.config, **{**options, **sampler.options}))


def scheduler_named(name: str) -> type | None:
    """Return a scheduler class of diffusers, if its packages are installed."""
    value = getattr(diffusers_schedulers, name) if name in dir(diffusers_schedulers) else None
    return value if isinstance(value, type) and issubclass(value, SchedulerMixin) else None


def is_flow_matching(scheduler: Scheduler) -> bool:
    """Recognise a checkpoint that is trained by flow matching."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def flow_options(kind: type, scheduler: Scheduler) -> dict[str, object] | None:
    """Return the options for flow matching. A class without such options does not fit."""
    if kind.__name__.startswith("FlowMatch") and kind.__name__ in (*FLOW_MATCHING.values(), type(scheduler).__name__):
        return {}
    known = inspect.signature(kind).parameters
    if "use_flow_sigmas" not in known or "Helios" in kind.__name__:
        return None
    if scheduler.config.get("use_dynamic_shifting") and "use_dynamic_shifting" not in known:
        return None
    shift = scheduler.config.get("flow_shift", scheduler.config.get("shift", 1.0))
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}


def diffusion_options(kind: type, scheduler: Scheduler) -> dict[str, object] | None:
    """Return the options for diffusion. A class of other models does not fit, nor one that cannot begin without
    signal where the model is trained so."""
    own = cast("Any", scheduler)
    names = {compatible.__name__ for compatible in own.compatibles} if own.has_compatibles else set[str]()
    if kind.__name__ not in {*names, *ALSO_DIFFUSION, type(scheduler).__name__} or kind.__name__.startswith("EDM"):
        return None
    known, options = inspect.signature(kind).parameters, dict[str, object]()
    if scheduler.config.get(ZERO_SNR):
        if ZERO_SNR not in known:
            return None
        options |= {ZERO_SNR: True, "timestep_spacing": "trailing"}
    if "clip_sample" in known:  # of models of pixels; latents go beyond 1
        options["clip_sample"] = scheduler.config.get("clip_sample", False)
    if "steps_offset" in known:
        options["steps_offset"] = scheduler.config.get("steps_offset", 1)
    return options
