"""The `finetune` command: generate, evaluate, records and whatever else is not training."""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.command_options import (
    add_compare,
    add_import,
    add_lora,
    add_plan,
    add_rate,
    add_records,
    add_wandb_view,
    plan_words,
)
from finetune.config.parse.once import options_once
from finetune.config.parse.usual_commands import usual_problem
from finetune.config.parse.versions import print_versions
from finetune.processes.garbage import spare_imports
from finetune.processes.streams import let_readers_leave, outlive_lost_output


def main() -> None:
    """Run the subcommand that the command line names."""
    outlive_lost_output()
    spare_imports()
    parser = argparse.ArgumentParser(prog="finetune", description="What is not training; recipes train.")
    text = "print the versions of this and of libraries, and exit"
    parser.add_argument("--version", action="store_true", default=argparse.SUPPRESS, help=text)  # for --help alone
    if sys.argv[1:2] in (["--version"], ["-V"], ["version"]):
        print_versions()
    commands = parser.add_subparsers(dest="command", required=True)
    demo = options_once(commands.add_parser("demo", help="adapt the shipped model to a style, show before and after"))
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="folder of the demo (demo_output)")
    demo.add_argument("--steps", type=int, help="steps (the preset's 200)")
    commands.add_parser("evaluate", help="score checkpoints, and name the one to use", add_help=False)
    doctor = commands.add_parser("doctor", help="look into a model")
    checks = doctor.add_subparsers(dest="check", required=True)
    tokens = options_once(checks.add_parser("tokens", help="propose rare words to call a subject by (DreamBooth)"))
    tokens.add_argument(
        "--model.source", dest="source", required=True, help="folder of a diffusers pipeline, Hub id, or single file"
    )
    tokens.add_argument("--model.family", dest="family", help="architecture (found in the checkpoint)")
    tokens.add_argument("--model.config", dest="config", type=Path, help="folder with the configs of a single file")
    tokens.add_argument("--num", type=int, default=20, help="words to propose (20)")
    commands.add_parser("presets", help="list the presets, with what each is for")
    accelerate = commands.add_parser("accelerate-config", help="print a path for accelerate launch --config_file")
    accelerate.add_argument("name", help="cpu, single_gpu, multi_gpu or fsdp2")
    for add in (add_plan, add_compare, add_records, add_rate, add_wandb_view, add_lora, add_import):
        add(commands)
    commands.add_parser("generate", help="draw images from prompts, with adapters and new tokens", add_help=False)
    commands.add_parser("export", help="write a model as one file for other programs", add_help=False)
    if (problem := usual_problem(sys.argv[1:])) is not None:
        parser.exit(1, f"error: {problem}\n")
    if sys.argv[1:2] in (["generate"], ["evaluate"], ["export"]):  # their options are those of a config class
        run(argparse.Namespace(command=sys.argv[1], options=sys.argv[2:]))
        return
    if sys.argv[1:2] == ["lora"] and sys.argv[2:3] and sys.argv[2] in ("merge", "effect", "convert", "extract"):
        run(argparse.Namespace(command="lora", action=sys.argv[2], options=sys.argv[3:]))
        return
    if sys.argv[1:] and sys.argv[1] not in commands.choices:
        refuse_training(sys.argv[1])
    words = plan_words(sys.argv[1:])
    end = words.index("--") if words[:1] == ["import"] and "--" in words else len(words)
    options, unknown = parser.parse_known_args(words[:end])
    if unknown:  # with the usage of the command, not of all
        commands.choices[options.command].error(f"not understood: {' '.join(unknown)}")
    if end < len(words):
        options.arguments = words[end + 1 :]
    run(options)


def run(options: argparse.Namespace) -> None:
    """Run the chosen command; exit with 1 on a mistake."""
    from finetune.launch import fail, quiet_libraries

    try:
        match options.command:
            case "accelerate-config":
                from finetune.config.parse.presets import find_accelerate_config

                print(find_accelerate_config(options.name))
            case "plan":
                from finetune.sizing.command import PlanOptions, plan

                let_readers_leave()
                quiet_libraries()
                plan(PlanOptions(**{name: value for name, value in vars(options).items() if name != "command"}), print)
            case "demo":
                demonstrate(options)
            case "compare":
                from finetune.compare.command import compare

                compare(options.runs, options.output, options.scores)
            case "generate":
                generate_images(options.options)
            case "export":
                export_one_file(options.options)
            case "evaluate":
                score(options.options)
            case "import":
                from finetune.imports.command import import_config

                import_config(options.file, options.arguments, options.output, print)
            case "lora":
                work_on_adapters(options)
            case "records":
                let_readers_leave()
                show_records(options)
            case "wandb-view":
                save_wandb_view(options)
            case "presets":
                from finetune.config.parse.recipe_options import preset_lines

                let_readers_leave()
                print(*preset_lines(), sep="\n")
            case "rate":
                rate_targets(options)
            case _:
                from finetune.config.sections import ModelConfig
                from finetune.models.text.doctor import tokens_text

                quiet_libraries()
                print(tokens_text(ModelConfig(options.source, options.family, config=options.config), options.num))
    except (ValueError, OSError) as error:
        fail(error)


def refuse_training(command: str) -> None:
    """Exit with 1 and the command if a recipe is the subcommand."""
    from finetune.config.parse.recipe_options import RECIPES
    from finetune.launch import fail

    named = [recipe for recipe in RECIPES if command in (recipe, recipe.rpartition(".")[2])]
    if named or command in ("train", "launch"):
        recipe = named[0] if named else "RECIPE"
        known = "" if named else f" RECIPE is one of {', '.join(RECIPES)}."
        fail(ValueError(f"finetune {command}: recipes train. Use: python -m {recipe} OPTIONS.{known}"))


@contextlib.contextmanager
def ending_with(advice: str) -> Iterator[None]:
    """Exit with 130 and advice after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nInterrupted. {advice}", file=sys.stderr)
        raise SystemExit(130) from None


def generate_images(arguments: Sequence[str]) -> None:
    """Draw the images that are missing."""
    from finetune.config.drawing.generate import GenerateConfig
    from finetune.config.parse.command_line import parse
    from finetune.launch import quiet_libraries

    config = parse(GenerateConfig, arguments, program="finetune generate")
    quiet_libraries()
    with ending_with("The same command draws the images that are missing."):
        from finetune.sampling.generate import generate

        generate(config)


def export_one_file(words: list[str]) -> None:
    """Write a model as one file."""
    from finetune.config.parse.command_line import parse
    from finetune.export.command import ExportConfig, export_model
    from finetune.launch import quiet_libraries, say

    flags = ["--model.source", *words] if words and not words[0].startswith("-") else words
    config = parse(ExportConfig, flags, program="finetune export")
    quiet_libraries()
    with ending_with("Nothing was written; run the same command again."):
        export_model(config, say)


def work_on_adapters(options: argparse.Namespace) -> None:
    """Show, measure, resize, convert, extract or merge files of adapters."""
    from finetune.launch import quiet_libraries, say

    if options.action == "show":
        from finetune.lora_files.show import show

        for path in options.files:
            for line in show(path):
                say(line)
        return
    if options.action == "resize":
        from finetune.lora_files.resize import ResizeOptions, resize

        given = {name: value for name, value in vars(options).items() if name not in ("command", "action")}
        resize(ResizeOptions(**given), say)
        return
    from finetune.lora_files.command import parse_files

    work = parse_files(options.action, options.options)
    quiet_libraries()
    with ending_with("Nothing was written; run the same command again."):
        work(say)


def demonstrate(options: argparse.Namespace) -> None:
    """Run the demo."""
    from finetune.demo.run import run_demo

    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps: got {options.steps}, expected 1 or more.")
    try:
        with ending_with("The same command continues from the last complete stage."):
            run_demo(options.output, options.steps)
    except subprocess.CalledProcessError as error:
        print(f"error: the recipe stopped with exit code {error.returncode}; see above.", file=sys.stderr)
        raise SystemExit(1) from None


def score(arguments: list[str]) -> None:
    """Score checkpoints."""
    from finetune.evaluate.command import evaluate, parse_evaluation
    from finetune.launch import quiet_libraries, say

    config = parse_evaluation(arguments)
    quiet_libraries()
    with ending_with("The same command continues with what is missing."):
        evaluate(config, say)


def show_records(options: argparse.Namespace) -> None:
    """Show, search or export the images of a folder of runs."""
    from finetune.records.command import RecordsOptions
    from finetune.records.command import show_records as show

    given = {name: value for name, value in vars(options).items() if name != "command"}
    with ending_with("The records are as they were; the same command continues."):
        show(RecordsOptions(**given))


def rate_targets(options: argparse.Namespace) -> None:
    """Compare two checkpoints by eye."""
    from finetune.launch import say
    from finetune.rate.command import RateOptions, rate

    given = {name: value for name, value in vars(options).items() if name != "command"}
    rate(RateOptions(**given), say)


def save_wandb_view(options: argparse.Namespace) -> None:
    """Save a W&B workspace and a report of a run."""
    from finetune.launch import say
    from finetune.tracking.wandb.view import view

    with ending_with("The same command writes and saves it again."):
        view(options.run, options.entity, options.project, options.output, say)


if __name__ == "__main__":
    main()
