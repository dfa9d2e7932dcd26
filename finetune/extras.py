"""pip commands that install optional packages."""

import shlex
from functools import cache
from importlib.metadata import PackageNotFoundError, requires


@cache
def install_command(*names: str) -> str:
    """Return the pip command for extras of this project or packages, e.g. `pip install 'trackio<1,>=0.43'`. It names
    packages only: the project is not on a package index, so `pip install sd-finetune[trackio]` finds nothing."""
    try:
        listed = requires("sd-finetune") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        listed = []
    needs: list[str] = []
    for name in names:
        needs += [text.partition(";")[0].strip() for text in listed if text.endswith(f'extra == "{name}"')] or [name]
    return f"pip install {shlex.join(needs)}"
