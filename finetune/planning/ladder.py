"""Options that save memory, cheapest in speed first; torch-free."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from finetune.config.optim import SMALL_STATE, OptimConfig
from finetune.config.parse.dump import as_flat, as_plain, with_options
from finetune.config.train import TrainConfig

Config = TypeVar("Config", bound=TrainConfig)
Options = Mapping[str, object]


@dataclass(frozen=True)
class Rung:
    """Options that save memory together."""

    title: str
    options: Callable[[TrainConfig], Options]
    cost: str
    """What they cost, mostly in speed."""
    of_all_weights: bool = False
    """They save little where adapters or tokens train."""
    needs_bf16: bool = False
    for_one_process: bool = False


def single_images(config: TrainConfig) -> Options:
    """Split a batch into passes of one image. Together they make the same step."""
    passes = config.train.accumulation * config.train.batch_size
    return {"train.batch_size": 1, "train.accumulation": passes}


LADDER = (
    Rung("cache latents", lambda _: {"cache.latents": True}, "faster, for disk"),
    Rung("cache captions", lambda _: {"cache.text": True}, "faster, for disk"),
    Rung("average in host memory", lambda _: {"train.ema_device": "cpu"}, "little", of_all_weights=True),
    Rung("8-bit optimizer", lambda _: {"optim.name": SMALL_STATE}, "none; moments are rounded", of_all_weights=True),
    Rung(
        "bfloat16 weights",
        lambda _: {"optim.weights": "bf16_stochastic"},
        "little; updates are rounded at random",
        of_all_weights=True,
        needs_bf16=True,
    ),
    Rung(
        "updates in the backward pass",
        lambda _: {"optim.in_backward": True, "train.max_grad_norm": 0.0},
        "little; gradients are not clipped",
        of_all_weights=True,
        for_one_process=True,
    ),
    Rung("checkpointing", lambda _: {"train.gradient_checkpointing": True}, "about a third more time"),
    Rung("one image in a pass", single_images, "the device is used less well"),
    Rung("base model in 8 bits", lambda _: {"model.quantization": "int8"}, "weights are unpacked at every use"),
    Rung("base model in 4 bits", lambda _: {"model.quantization": "nf4"}, "the same, rounded more coarsely"),
    Rung("base model in host memory", lambda _: {"model.offload": True}, "it is copied two or three times a step"),
)


def trains_all_weights(config: TrainConfig) -> bool:
    """Check whether the base model's own weights train."""
    used = as_flat(config)
    has_adapters = "lora.rank" in used and used.get("method", "lora") == "lora"
    return not has_adapters and not used.get("tokens.names")


def with_rung(config: Config, rung: Rung, *, num_processes: int, is_bf16: bool) -> Config | None:
    """Return the config with a rung's options. None where they change nothing or contradict others."""
    if rung.of_all_weights and not trains_all_weights(config):
        return None
    if (rung.needs_bf16 and not is_bf16) or (rung.for_one_process and num_processes > 1):
        return None
    options, used = rung.options(config), as_flat(config)
    if all(used[key] == as_plain(value) for key, value in options.items()) or saves_less(used, options):
        return None
    try:
        return with_options(config, dict(options))
    except ValueError:
        return None


def saves_less(used: Options, options: Options) -> bool:
    """Recognise options in place of others that save as much or more."""
    small = options.get("optim.name") == SMALL_STATE and used["optim.name"] != OptimConfig().name
    narrow = options.get("optim.weights") is not None and used["optim.weights"] != "fp32"
    packed = options.get("model.quantization") == "int8" and used["model.quantization"] != "none"
    return small or narrow or packed


def next_options(config: TrainConfig, *, num_processes: int) -> str:
    """Return the next rung's options as a command line has them. Empty where none is left."""
    for rung in LADDER:
        if with_rung(config, rung, num_processes=num_processes, is_bf16=False) is not None:
            return " ".join(option_lines(rung.options(config)))
    return ""


def option_lines(options: Options) -> Iterator[str]:
    """Yield options in the form of a command line."""
    for key, value in options.items():
        yield f"--{key} {str(value).lower() if isinstance(value, bool) else value}"
