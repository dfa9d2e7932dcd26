"""Checks of an output before the work for it; torch-free."""

import os
from collections.abc import Iterator
from pathlib import Path


def new_output_problems(output: Path, expected: str = "a new one") -> Iterator[str]:
    """Refuse what is there already, and places where nothing can be written."""
    if os.path.lexists(output):
        link = f" as a link to {os.readlink(output)}" if output.is_symlink() else ""
        yield f"output: {output} exists already{link}, expected {expected}. Choose another name."
        return
    nearest = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
    if not nearest.is_dir():
        yield f"output: {nearest} is not a folder, expected one for {output.name}. Choose another place."
    elif not os.access(nearest, os.W_OK | os.X_OK):
        yield f"output: nothing can be written into {nearest}. Choose another place, or change its permissions."
