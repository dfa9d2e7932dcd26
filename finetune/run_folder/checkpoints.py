"""The checkpoints of a run by name; torch-free."""

import re
from pathlib import Path

STEP_FOLDER = re.compile(r"step_(\d{6,})")


def complete_steps(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of all checkpoints, newest first. The step is the number in the name."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := STEP_FOLDER.fullmatch(path.name))]
    return sorted(found, reverse=True)
