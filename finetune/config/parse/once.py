"""Refusal of options that are given twice. argparse silently uses the last."""

import argparse
from typing import Any


class Once(argparse.Action):
    """Store a value once."""

    is_used = False

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if self.is_used:
            parser.error(f"{option_string}: given twice. Keep one.")
        self.is_used = True
        setattr(namespace, self.dest, values)


def options_once(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Make options added from now on errors if given twice."""
    parser.register("action", None, Once)
    return parser
