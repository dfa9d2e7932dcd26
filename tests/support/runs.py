"""Recipes as real processes, forked from a server with all imports.

A child is a process of its own, so it can be killed, limited and signalled like one started by hand.
"""

import gc
import importlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from finetune.run.checkpoint import load_checkpoint

CONTEXT = multiprocessing.get_context("forkserver")
RECIPES = ["recipes.lora", "recipes.full", "recipes.dreambooth", "recipes.pretrain", "recipes.textual_inversion"]
SERVER = multiprocessing.forkserver.ForkServer()
"""A fork server beside the process's usual one, which belongs to datasets_prep.workers.pool and imported other
things."""
LATER = ["bitsandbytes", "datasets", "diffusers.pipelines.onnx_utils", "tyro"]
LATER += [
    "finetune.methods.full",
    "finetune.models.families.sd",
    "finetune.run.class_images",
    "finetune.evaluate.command",
]
"""What processes of most tests import as they need it."""
SERVER.set_forkserver_preload(["finetune.train", *RECIPES, *LATER, "tests.support.runs"])

Options = dict[str, object]
Environment = dict[str, str] | None
UNCACHED: Options = {"cache.latents": False, "cache.text": False}
WITH_TEXT_ENCODER: Options = {"train.text_encoder": True, "cache.text": False}
PREVIEWS: Options = {"preview.prompts": ("a red circle",), "preview.num_inference_steps": 1}
SUBJECT: Options = {"instance.prompt": "a photo of zkw circle", "prior.prompt": "a photo of a circle"}
BF16 = {"ACCELERATE_MIXED_PRECISION": "bf16"}

TINY: Options = {"data.resolution": 64, "data.bucket_step": 16, "train.batch_size": 2, "train.log_every": 1}
TINY |= {"checkpoint.every": 4, "lora.rank": 4, "optim.lr": 1e-2, "tracking.names": ()}
"""Options that make a run on a tiny model a matter of seconds."""


def flags(options: Options) -> list[str]:
    found: list[str] = []
    for key, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        found += [f"--{key}", *map(str, values)]
    return found


@dataclass(frozen=True)
class Ended:
    exit_code: int
    output: str


@dataclass(frozen=True)
class Running:
    process: BaseProcess
    log: Path

    def wait(self, seconds: float = 180) -> Ended:
        """Wait for the end; a slow process is killed and fails."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s:\n{self.log.read_text()}")
        return Ended(self.process.exitcode or 0, self.log.read_text())

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def wait_until(self, happened: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until a condition holds or the process has ended."""
        deadline = time.monotonic() + seconds
        while not happened() and self.process.is_alive():
            assert time.monotonic() < deadline, f"did not happen within {seconds} s:\n{self.log.read_text()}"
            time.sleep(0.005)


def forked_process(work: Callable[..., None], arguments: Sequence[object]) -> BaseProcess:
    """Start a process with all imports. It calls `work`."""
    process = CONTEXT.Process(target=work, args=tuple(arguments))
    with mock.patch.object(multiprocessing.forkserver, "connect_to_new_process", SERVER.connect_to_new_process):
        process.start()
    return process


def start(
    recipe: str,
    options: Options,
    log: Path,
    *,
    environment: Environment = None,
    prepare: Callable[[], None] | None = None,
) -> Running:
    """Start `recipes.RECIPE`; `prepare` runs in the child first and must be picklable."""
    sys.audit("tests.run", recipe)  # tests/unit refuses it
    return Running(forked_process(_child, (recipe, flags(options), log, environment or {}, prepare)), log)


def run(recipe: str, options: Options, log: Path, *, environment: Environment = None) -> Ended:
    return start(recipe, options, log, environment=environment).wait()


def completed(recipe: str, options: Options, log: Path, *, environment: Environment = None) -> Ended:
    """Run `recipes.RECIPE` to its end, which has to be a good one."""
    ended = run(recipe, options, log, environment=environment)
    assert ended.exit_code == 0, ended.output
    return ended


def assert_refused(ended: Ended, *words: str) -> None:
    """Expect exit code 1 and an error with the words. It has no traceback."""
    assert ended.exit_code == 1 and "error: " in ended.output and "Traceback" not in ended.output, ended.output
    assert [word for word in words if word not in ended.output] == [], ended.output


def refused(
    recipe: str,
    options: Options,
    log: Path,
    *words: str,
    environment: Environment = None,
    prepare: Callable[[], None] | None = None,
) -> str:
    """Run `recipes.RECIPE`, which has to refuse. Return what it printed."""
    ended = start(recipe, options, log, environment=environment, prepare=prepare).wait()
    assert_refused(ended, *words)
    return ended.output


def kill_after_three_steps(recipe: str, options: Options, log: Path, *, environment: Environment = None) -> None:
    """Kill `recipes.RECIPE` when metrics.jsonl has three lines."""
    running = start(recipe, options, log, environment=environment)
    running.wait_until(lambda: len(metrics(Path(str(options["output.folder"])))) >= 3)
    running.signal(signal.SIGKILL)
    running.wait()


def assert_same_end(folder: Path, other: Path) -> None:
    """Expect the same weights, optimizer state and logged numbers, bit by bit."""
    assert differing(final_state(folder), final_state(other)) == []
    assert losses(folder) == losses(other)


def without_lora(options: Options) -> Options:
    """Return the options of a recipe that has none of LoRA's."""
    return {key: value for key, value in options.items() if not key.startswith("lora.")}


def enter_program(words: Sequence[str], output: Path, errors: Path, environment: dict[str, str]) -> None:
    """Give a forked process the words, streams and environment of a program."""
    streams = {path: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in (output, errors)}
    os.dup2(streams[output], 1)
    os.dup2(streams[errors], 2)
    os.environ.update(environment)
    gc.freeze()  # of the modules that the server imported, no collection finds anything
    torch.set_num_threads(1)
    sys.argv = list(words)


def _child(
    recipe: str, arguments: Sequence[str], log: Path, environment: dict[str, str], prepare: Callable[[], None] | None
) -> None:
    program = f"recipes.{recipe}"
    enter_program([program, *arguments], log, log, environment)
    if prepare:
        prepare()
    from finetune.launch import run_recipe

    run_recipe(importlib.import_module(program).RECIPE, arguments, program)


def same_uncached_and_killed(options: Options, uncached: Options, folder: Path) -> str:
    """Compare straight, uncached, and killed and resumed LoRA runs. Returns what the first printed."""
    first = completed("lora", options | {"output.folder": folder / "a"}, folder / "log")
    refuse_other_bits(folder / "a", options, uncached, folder)
    return first.output


def refuse_other_bits(straight: Path, options: Options, uncached: Options, folder: Path) -> None:
    """Compare an uncached and a killed run with that in `straight`. The bits must be the same."""
    other, broken = (options | {"output.folder": folder / name} for name in ("b", "c"))
    completed("lora", other | uncached, folder / "log")
    kill_after_three_steps("lora", broken | {"checkpoint.every": 2}, folder / "log")
    completed("lora", broken, folder / "log")
    for name in ("b", "c"):
        assert_same_end(straight, folder / name)


def metrics(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def final_state(folder: Path) -> dict[str, Tensor]:
    """Read weights, averages and optimizer state of the newest checkpoint. All are in one dict."""
    newest = max((folder / "checkpoints").glob("step_*"))
    checkpoint = load_checkpoint(newest)
    state = {f"trained.{name}": value for name, value in checkpoint.trained.items()}
    state |= {f"ema.{name}": value for name, value in (checkpoint.ema or {}).items()}

    def walk(value: object, name: str) -> None:
        if isinstance(value, Tensor):
            state[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}")
        elif isinstance(value, int | float):
            state[name] = torch.tensor(float(value), dtype=torch.float64)

    walk(checkpoint.optimizer["state"], "optimizer")
    return state


def distance(found: dict[str, Tensor], wanted: dict[str, Tensor], beginning: str = "trained.") -> float:
    """Return the relative distance of all tensors together whose names begin so."""
    assert found.keys() == wanted.keys()
    names = [name for name in wanted if name.startswith(beginning)]
    difference = sum(float((found[name] - wanted[name]).square().sum()) for name in names)
    return (difference / sum(float(wanted[name].square().sum()) for name in names)) ** 0.5


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Return the names whose values are not equal bit for bit."""
    assert first.keys() == second.keys(), first.keys() ^ second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


def assert_close_metrics(folder: Path, other: Path, *keys: str, rel: float) -> None:
    """Expect almost the same numbers in every logged step."""
    for row, theirs in zip(metrics(folder), metrics(other), strict=True):
        assert [row.get(key, 0.0) for key in keys] == pytest.approx([theirs.get(key, 0.0) for key in keys], rel=rel)


def losses(folder: Path) -> list[tuple[float, ...]]:
    """Return what metrics.jsonl says of the numbers, without the clock."""
    return [
        tuple(row.get(key, 0.0) for key in ("step", "loss", "lr", "grad_norm", "validation/loss", "images_seen"))
        for row in metrics(folder)
    ]
