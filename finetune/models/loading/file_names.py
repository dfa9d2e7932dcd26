"""A file under another name, for libraries that read by names."""

import shutil
from pathlib import Path


def under_name(path: Path, name: Path) -> None:
    """Let `name` lead to a file. It is a link, or a copy where links need a privilege, as on Windows."""
    try:
        name.symlink_to(path.resolve())
    except OSError:
        shutil.copyfile(path, name)
