"""The `finetune` command: what is not training. `finetune demo`, `finetune plan`."""

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Runs the subcommand that the command line names."""
    parser = argparse.ArgumentParser(prog="finetune", description="What is not training; recipes train.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="adapt the shipped model to a style, show before and after")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="folder of the demo (demo_output)")
    demo.add_argument(
        "--steps", type=int, help="training steps (the preset's 400); 120 show the style, not yet the content"
    )
    plan = commands.add_parser("plan", help="show what a recipe's command would do, and why; trains nothing")
    plan.add_argument("--processes", type=int, default=1, help="processes that the launcher will start (1)")
    plan.add_argument("recipe", help="module of the recipe, such as recipes.lora")
    plan.add_argument("options", nargs=argparse.REMAINDER, help="options of the recipe")
    options = parser.parse_args()
    if options.command == "plan":
        plan_recipe(options.recipe, options.options, options.processes)
    else:
        demonstrate(options)


def plan_recipe(recipe: str, arguments: list[str], num_processes: int) -> None:
    """Prints the plan; exits with 1 on a mistake."""
    from finetune.launch import fail
    from finetune.plan import print_plan

    try:
        print_plan(recipe, arguments, num_processes)
    except (ValueError, OSError) as error:
        fail(error)


def demonstrate(options: argparse.Namespace) -> None:
    """Runs the demo."""
    from finetune.demo.run import run_demo

    try:
        run_demo(options.output, options.steps)
    except subprocess.CalledProcessError as error:
        print(f"error: the recipe stopped with exit code {error.returncode}; see above.", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last stage that was complete.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
