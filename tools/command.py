"""Commands of tools: options from the command line, mistakes as sentences."""

import sys
from collections.abc import Callable
from typing import TypeVar

from finetune.config.parse.command_line import parse

Config = TypeVar("Config")


def run_tool(kind: type[Config], run: Callable[[Config], str], program: str) -> None:
    """Run a tool and print its last sentence. Exit with 1 on a mistake."""
    try:
        print(run(parse(kind, sys.argv[1:], program=program)))
    except (ValueError, OSError) as error:
        print("error: " + str(error).replace("\n", "\n       "), file=sys.stderr)
        raise SystemExit(1) from None
