"""The versions that `--version` prints; torch-free."""

import importlib.metadata
import platform

from finetune import __version__

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")


def print_versions() -> None:
    """Print one line with the versions, and exit."""
    found = [f"{name} {_version(name)}" for name in LIBRARIES]
    print(f"sd-finetune {__version__}; {', '.join(found)}; Python {platform.python_version()}, {platform.system()}")
    raise SystemExit(0)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"
