"""Training from a notebook, in a process of its own.

    from finetune.notebook import train

    folder = train("demo", model={"source": MODEL}, data={"folder": IMAGES}, output={"folder": "runs/ink"})

The notebook's own process keeps its signal handlers, `sys.argv` and memory, and the device is free after the run.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from finetune.config.parse.convert import entry_text
from finetune.config.parse.recipe_options import RECIPES, parse_recipe
from finetune.config.train import TrainConfig
from finetune.processes.signals import EXIT_CODE

PACKAGES = Path(__file__).parents[1]
"""The folder of `finetune` and `recipes`."""
LAUNCHED, GIVEN = "ACCELERATE_MIXED_PRECISION", "MIXED_PRECISION"
"""Variables of the precision: the one that accelerate reads, and the one that its notebook_launcher sets."""


def train(
    config: Mapping[str, object] | str | Path,
    *,
    recipe: str = "recipes.lora",
    mixed_precision: str | None = None,
    **options: object,
) -> Path:
    """Train as `python -m RECIPE` does, and return the run folder.

    `config` is a preset's name, a YAML file, or a dict of sections; `options` are sections or options that win over it,
    such as `train={"steps": 100}` or `seed=1`. `mixed_precision` is no, bf16 or fp16; without it that of
    `notebook_launcher`, which starts this function in several processes, else no. An interrupt saves the run and
    returns; the same call continues it. Raises ValueError for options that are refused, RuntimeError with the run's own
    words where it fails.
    """
    chosen = recipe if "." in recipe else f"recipes.{recipe}"
    if chosen not in RECIPES:
        raise ValueError(f"recipe: got {recipe}, expected one of {', '.join(RECIPES)}.")
    arguments = flags(config, options)
    checked, _ = parse_recipe(RECIPES[chosen], arguments, chosen, lambda text: None)
    precision = mixed_precision or os.environ.get(LAUNCHED) or os.environ.get(GIVEN) or "no"
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    child = subprocess.Popen(
        [sys.executable, "-m", chosen, *arguments],
        env=os.environ | {LAUNCHED: precision, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    with forwarding_signals(child):
        said = follow(child)
    if child.returncode not in (0, EXIT_CODE):
        raise RuntimeError(f"{chosen} ended with exit code {child.returncode}.\n{said}".rstrip())
    return cast(TrainConfig, checked).output.folder


def flags(config: Mapping[str, object] | str | Path, options: Mapping[str, object]) -> list[str]:
    """Return a recipe's arguments. Options win over a config."""
    is_named = not isinstance(config, Mapping)
    given = flat(options) if is_named else flat(config) | flat(options)
    found = ["--config", str(config)] if is_named else []
    for key, value in given.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            found += [f"--{key}", *map(entry_text, cast("Sequence[object]", value))]
        else:
            found.append(f"--{key}={value}")
    return found


def flat(options: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return options and sections of options by dotted name."""
    found: dict[str, object] = {}
    for name, value in options.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(cast("Mapping[str, object]", value), f"{key}.")
        else:
            found[key] = value
    return found


def follow(child: "subprocess.Popen[str]") -> str:
    """Print what the run prints until it ends; return its errors. An interrupt asks it to save."""
    errors: list[str] = []
    assert child.stdout is not None
    while True:
        try:
            for line in child.stdout:
                print(line, end="", flush=True)
                if errors or line.startswith(("error", "Traceback")):
                    errors.append(line)
            child.wait()
            return "".join(errors)
        except KeyboardInterrupt:
            if sys.platform != "win32" and child.poll() is None:  # there the console has sent it to both
                child.send_signal(signal.SIGINT)


@contextmanager
def forwarding_signals(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Pass signals on in a process that a launcher started. It waits until the run is saved. The notebook's own process
    keeps its handlers."""
    is_launched = multiprocessing.parent_process() is not None or "TORCHELASTIC_RUN_ID" in os.environ
    if not is_launched or threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: list[Any] = [signal.signal(number, lambda given, frame: child.send_signal(given)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
