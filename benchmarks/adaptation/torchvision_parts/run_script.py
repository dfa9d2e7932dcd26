"""Run a script of diffusers' examples beside parts of torchvision.

    python benchmarks/adaptation/torchvision_parts/run_script.py SCRIPT [OPTIONS]

Where torchvision is not installed, the one in the folder parts serves the script alone: the libraries that look for it
are imported first, and find none.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

import datasets  # noqa: F401
import diffusers  # noqa: F401
from transformers.utils import is_torchvision_available

PARTS = Path(__file__).parent / "parts"


def main() -> None:
    """Run the script with its options."""
    if importlib.util.find_spec("torchvision") is None:
        assert not is_torchvision_available(), "transformers keeps this answer"
        sys.path.insert(0, str(PARTS))
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
