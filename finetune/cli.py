"""The `finetune` command: what is not training. So far `finetune demo`."""

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
    options = parser.parse_args()

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
