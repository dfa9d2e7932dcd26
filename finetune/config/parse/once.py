"""Refusal of options that are given twice. argparse silently uses the last."""

from argparse import Action, ArgumentParser, Namespace


class Once(Action):
    """Store a value once."""

    is_used = False

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: object, option_string: str | None = None
    ) -> None:
        if self.is_used:
            parser.error(f"{option_string}: given twice. Keep one.")
        self.is_used = True
        setattr(namespace, self.dest, values)


def options_once(parser: ArgumentParser) -> ArgumentParser:
    """Make options added from now on errors if given twice."""
    parser.register("action", None, Once)
    return parser
