"""Import what a table names, when it is used."""

import importlib
from typing import Any


def import_named(place: str) -> Any:
    """Return the class or function at "package.module:name"."""
    module, _, name = place.partition(":")
    return vars(importlib.import_module(module))[name]
