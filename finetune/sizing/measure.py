"""The figures of a plan that depend on its model."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch

from finetune.batches.buckets import refuse_longer_sides
from finetune.config.parse.dump import with_options
from finetune.config.train import TrainConfig
from finetune.methods.base import TuningMethod
from finetune.planning.ladder import option_lines
from finetune.planning.plan import Plan
from finetune.planning.sharded_options import refuse_unsharded
from finetune.plurals import plural
from finetune.processes.sharding_request import Sharding
from finetune.run.device import COMPUTE_DTYPES
from finetune.sizing.autocast import Device
from finetune.sizing.disk import CacheBytes, cache_bytes
from finetune.sizing.flops import training_flops
from finetune.sizing.ladder import Step, climb
from finetune.sizing.memory import Memory, MemoryEstimator
from finetune.sizing.model import read_model
from finetune.sizing.step import Precision

GB = 1e9
PRECISIONS = {"cuda": "bf16", "cpu": "no"}
"""As in accelerate_configs/."""


@dataclass(frozen=True)
class Sizes:
    """Memory and disk of a run."""

    title: str
    denoiser: Mapping[str, object]
    """Its config."""
    pixels_per_latent: int
    device: Device
    precision: str
    num_processes: int
    is_sharded: bool
    size: tuple[int, int]
    """The largest size of images."""
    batch_size: int
    flops: float
    """Of training on one image of that size."""
    memory: Memory
    ladder: tuple[Step, ...]
    caches: CacheBytes
    cache_folder: str

    def figures(self) -> dict[str, Any]:
        """Return all as plain values."""
        memory = dataclasses.asdict(self.memory) | {"training": self.memory.training, "most": self.memory.most}
        ladder = [
            {"title": step.rung.title, "options": dict(step.options), "saved": step.saved, "most": step.most}
            for step in self.ladder
        ]
        caches = dataclasses.asdict(self.caches) | {"folder": self.cache_folder}
        return {
            "model": self.title,
            "device": self.device,
            "precision": self.precision,
            "processes": self.num_processes,
            "is_sharded": self.is_sharded,
            "largest_bucket": self.size,
            "flops_per_image": self.flops,
            "memory": memory,
            "ladder": ladder,
            "caches": caches,
        }

    def lines(self, limit_gb: float | None) -> Iterator[str]:
        """Yield them as text."""
        memory, (width, height) = self.memory, self.size
        yield f"{self.title}: {memory.num_trained:,} parameters train, {memory.num_frozen:,} beside them do not."
        where = "a GPU" if self.device == "cuda" else "a CPU"
        each = f" in each of {self.num_processes} processes" if self.num_processes > 1 else ""
        shared = " that share the denoiser's weights (FSDP2)" if self.is_sharded else ""
        yield (
            f"Memory on {where}{each}{shared} with mixed precision {self.precision}, in GB (10^9 bytes), beyond the "
            "empty process:"
        )
        activations = memory.passes - min(memory.passes, memory.gradients)
        rows = {
            "weights": memory.weights,
            "gradients": memory.gradients,
            "optimizer": memory.optimizer,
            "average": memory.average,
            "VAE, text encoders": memory.others,
            "more in a pass": activations,
        }
        yield from (f"  {name:20s} {value / GB:8.3f}" for name, value in rows.items() if value)
        images = f"{plural(self.batch_size, 'image')} of {width}x{height}"
        yield f"  training             {memory.training / GB:8.3f}  at the worst moment of a step, {images} in a pass"
        yield f"  encoding images      {memory.images / GB:8.3f}"
        yield f"  encoding captions    {memory.captions / GB:8.3f}"
        yield f"Host memory: about {size_text(memory.host)}{each} for weights that are read, kept or exported."
        yield f"Arithmetic: {self.flops / 1e12:.3g} TFLOPs in training on one image of {width}x{height}."
        caches = self.caches
        yield (
            f"Caches: {plural(caches.num_latents, 'latent')} of {size_text(caches.latents)} and "
            f"{plural(caches.num_captions, 'caption')} of {size_text(caches.captions)} in {self.cache_folder}."
        )
        yield from self.ladder_lines(limit_gb)

    def ladder_lines(self, limit_gb: float | None) -> Iterator[str]:
        """Yield what saves memory, cheapest in speed first."""
        most = self.memory.most
        if limit_gb is not None and most <= limit_gb * GB:
            yield f"It fits: {size_text(most)} at most, of {limit_gb:g} GB."
            return
        yield f"At most {size_text(most)}." + ("" if limit_gb is None else f" Too large for {limit_gb:g} GB.")
        for step in self.ladder:
            options = " ".join(option_lines(step.options))
            yield (
                f"  {step.rung.title}: saves {size_text(step.saved)}, leaves {size_text(step.most)} "
                f"(cost: {step.rung.cost}). {options}"
            )
        if limit_gb is None:
            return
        if not self.ladder or self.ladder[-1].most > limit_gb * GB:
            spread = "" if self.is_sharded else ", or share the weights: plan with --processes NUM --sharded"
            yield f"It does not fit with all of these. Lower data.resolution, or use a device with more memory{spread}."
            return
        changed = {key: value for step in self.ladder for key, value in step.options.items()}
        yield f"With these options it fits: {' '.join(option_lines(changed))}"


def size_text(num_bytes: int) -> str:
    """Write a number of bytes in GB. A small one is in MB."""
    return f"{num_bytes / GB:.3g} GB" if num_bytes >= GB / 10 else f"{num_bytes / 1e6:.3g} MB"


def measure(
    plan: Plan, device: str | None, precision: str | None, limit_gb: float | None, *, is_sharded: bool = False
) -> Sizes:
    """Build the model on the meta device, and count. Raises ValueError where the recipe would refuse the model or the
    sharded launch."""
    assert plan.recipe.method is not None
    place = cast("Device", device or ("cuda" if torch.cuda.is_available() else "cpu"))
    named = precision or PRECISIONS[place]
    exact = Precision(COMPUTE_DTYPES[named], place)
    if is_sharded:
        refuse_unsharded(plan.config, named)
    model = read_model(plan.config)
    refuse_longer_sides(
        [(bucket.width, bucket.height) for bucket in plan.buckets], model.family.longest_side(model.components)
    )
    method = partial(method_of, plan, model.config)
    tuning = cast("TuningMethod", method(model.config))
    tuning.check(model.family, model.components)
    largest = max(plan.buckets, key=lambda bucket: bucket.width * bucket.height)
    size = largest.width, largest.height
    sharding = Sharding(reshards=True) if is_sharded else None
    estimator = MemoryEstimator(model, method, size, exact, plan.num_processes, sharding)
    limit = None if limit_gb is None else round(limit_gb * GB)
    return Sizes(
        model.family.title,
        dict(model.components.denoiser.config),
        model.family.pixels_per_latent(model.components.vae),
        place,
        named,
        plan.num_processes,
        is_sharded,
        size,
        plan.config.train.batch_size,
        training_flops(model.family, model.components, tuning, plan.config.seed, [size])[size],
        estimator.memory(plan.config),
        tuple(climb(estimator, plan.config, limit)),
        cache_bytes(plan, model, tuning, exact),
        str(plan.config.cache.place),
    )


def method_of(plan: Plan, local: TrainConfig, config: TrainConfig) -> object:
    """Return the method of a config. It reads tokenizers from the local model."""
    assert plan.recipe.method is not None
    source = {"model.source": local.model.source, "model.revision": local.model.revision}
    return plan.recipe.method(with_options(config, source))
