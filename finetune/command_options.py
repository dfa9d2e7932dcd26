"""Options of the commands that look at runs and their files; torch-free."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from finetune.config.parse.once import options_once

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_compare(commands: Commands) -> None:
    """Add the options of `finetune compare`."""
    compare = options_once(commands.add_parser("compare", help="put several runs side by side on one page"))
    compare.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, which are only read")
    compare.add_argument(
        "--scores", nargs="+", type=Path, default=[], help="outputs of finetune evaluate, for runs without scores"
    )
    compare.add_argument("--output", type=Path, default=Path("compare.html"), help="the page (compare.html)")


def add_import(commands: Commands) -> None:
    """Add the options of `finetune import`."""
    text = "translate a config or command line of another trainer"
    usage = "finetune import [--output NEW.yaml] (FILE | -- ARGUMENTS)"
    imports = options_once(commands.add_parser("import", help=text, usage=usage))
    imports.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="config of another trainer, or a shell file that starts one"
    )
    imports.add_argument("--output", type=Path, default=Path("imported.yaml"), metavar="NEW.yaml", help="the new file")
    imports.set_defaults(arguments=[])  # what follows --, the other trainer's


def add_lora(commands: Commands) -> None:
    """Add the commands of `finetune lora`."""
    lora = commands.add_parser(
        "lora", help="look into files of adapters, and measure, convert, resize, extract or merge them"
    )
    actions = lora.add_subparsers(dest="action", required=True)
    show = options_once(actions.add_parser("show", help="say what a file holds, and what reads it"))
    show.add_argument("files", nargs="+", type=Path, metavar="FILE", help="safetensors files, which are only read")
    resize = options_once(actions.add_parser("resize", help="write a LoRA at another rank"))
    resize.add_argument("file", type=Path, metavar="FILE", help="a safetensors file, which is only read")
    resize.add_argument("--output", type=Path, required=True, metavar="FILE", help="the new file")
    resize.add_argument("--rank", type=int, help="rank of every layer")
    text = "share of each layer's change to keep, such as 0.95, in place of a rank"
    resize.add_argument("--energy", type=float, help=text)
    resize.add_argument(
        "--dtype", choices=("same", "fp16", "bf16", "fp32"), default="same", help="number format (same)"
    )
    actions.add_parser("merge", help="add adapters to the weights of a base model", add_help=False)
    what = "measure what adapters do on a base model with weights in fp8, int8 or nf4"
    actions.add_parser("effect", help=what, add_help=False)
    actions.add_parser("convert", help="write a LoRA in the layout of other programs", add_help=False)
    actions.add_parser("extract", help="write a LoRA from a fine-tuned model and its base model", add_help=False)


def add_records(commands: Commands) -> None:
    """Add the options of `finetune records`."""
    text = "show, search and export all images that were drawn"
    records = options_once(commands.add_parser("records", help=text))
    records.add_argument("folder", type=Path, help="folder that contains run folders; records.sqlite is written there")
    records.add_argument("--search", metavar="WORDS", help="words that prompts have; appl* is the beginning of a word")
    records.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="FIELD>=VALUE",
        help='such as "step>=100", "scores.style>0.5" or "prompt~apple"; with several all must hold',
    )
    records.add_argument("--like", type=Path, metavar="IMAGE", help="an image file, to find similar ones")
    records.add_argument("--csv", type=Path, metavar="FILE", help="write what is found to a CSV file")
    records.add_argument("--num", type=int, help="most images to show (20), or to write (all)")
    records.add_argument("--rebuild", action="store_true", help="read every image again, also after damage")


PLAN_VALUES = ("--processes", "--memory-gb", "--step-seconds", "--device", "--precision")
"""Options of `finetune plan` that have a value."""
PLAN_FLAGS = ("--sharded", "--json")
"""Those that have none."""


def add_plan(commands: Commands) -> None:
    """Add the options of `finetune plan`."""
    text = "show what a recipe would do, and what it needs; trains nothing"
    plan = options_once(commands.add_parser("plan", help=text))
    plan.add_argument("--processes", type=int, default=1, help="processes that the launcher will start (1)")
    plan.add_argument("--memory-gb", type=float, metavar="GB", help="memory of the device; says what makes it fit")
    plan.add_argument("--step-seconds", type=float, metavar="S", help="seconds of a step, for the time of the run")
    plan.add_argument("--device", choices=("cuda", "cpu"), help="what the run will use (that of this machine)")
    what = "mixed precision of the launch (bf16 on cuda, no on cpu)"
    plan.add_argument("--precision", choices=("bf16", "fp16", "no"), help=what)
    plan.add_argument("--sharded", action="store_true", help="the launch is that of accelerate_configs/fsdp2.yaml")
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    plan.add_argument("recipe", help="module of the recipe, such as recipes.lora, or its last part")
    plan.add_argument("options", nargs=argparse.REMAINDER, help="options of the recipe")


def plan_words(words: Sequence[str]) -> list[str]:
    """Put `finetune plan`'s own options before the recipe, whose options follow it. Other commands' words are returned
    as they are."""
    if words[:1] != ["plan"]:
        return list(words)
    own: list[str] = []
    rest: list[str] = []
    remaining = iter(words[1:])
    for word in remaining:
        is_own = word.partition("=")[0] in (*PLAN_VALUES, *PLAN_FLAGS)
        (own if is_own else rest).append(word)
        if word in PLAN_VALUES:
            own += [value for value in [next(remaining, None)] if value is not None]
    return ["plan", *own, *rest]


def add_rate(commands: Commands) -> None:
    """Add the options of `finetune rate`."""
    rate = options_once(commands.add_parser("rate", help="compare two checkpoints by eye, without their names"))
    what = "two scored runs (their best checkpoint), or folders of scored images"
    rate.add_argument("targets", type=Path, nargs=2, metavar="TARGET", help=what)
    rate.add_argument("--output", type=Path, metavar="FILE", help="file of votes (votes.jsonl in the first target)")
    rate.add_argument("--seed", type=int, default=0, help="seed of the order and the sides (0)")
    rate.add_argument("--port", type=int, default=0, help="port of the page (a free one)")
    rate.add_argument("--show", action="store_true", help="show the result of the votes and serve no page")


def add_wandb_view(commands: Commands) -> None:
    """Add the options of `finetune wandb-view`."""
    text = "save a W&B workspace and a report of a run, or write the script that does"
    view = options_once(commands.add_parser("wandb-view", help=text))
    view.add_argument("run", type=Path, help="run folder")
    view.add_argument("--entity", help="team or user of W&B (that of the run, or of the login)")
    view.add_argument("--project", help="project of W&B (that of the run)")
    view.add_argument("--output", type=Path, metavar="FILE", help="the script (wandb_view.py in the run folder)")
