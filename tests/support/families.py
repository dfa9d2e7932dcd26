"""A tiny pipeline for every model family, with facts for the suite."""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tiny:
    """How a family's tiny pipeline is made."""

    module: str
    """Module with `save_pipeline(folder, *, seed=0, ...)`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments that make it as small as the tests allow."""
    learns_tokens: bool = True
    """True where textual inversion can teach it a word; otherwise it has to be refused."""
    loads_single_file: bool = True
    """True where diffusers' pipeline reads the single file of the tiny model; its layers are compared in any case."""
    runs_are_fast: bool = True
    """False leaves the family's whole runs to `make test-all`."""


TINY_FAMILIES = {
    "sd": Tiny("tests.tiny.sd", {"size": "micro"}),
    "sdxl": Tiny("tests.tiny.sdxl", runs_are_fast=False),
    # diffusers 0.42 reads no single file of SD3, and of FLUX those alone that are 3072 wide.
    "sd3": Tiny("tests.tiny.sd3", learns_tokens=False, loads_single_file=False, runs_are_fast=False),
    "flux": Tiny("tests.tiny.flux", learns_tokens=False, loads_single_file=False),
}


def tiny_family(name: str) -> Tiny:
    """Return the suite's facts of a family; unknown families fail."""
    if name not in TINY_FAMILIES:
        raise AssertionError(
            f"the family {name} has no tiny pipeline, so that nothing of it is tested. Write save_pipeline(folder, *, "
            f"seed=0) in tests/tiny_{name}.py and add a line to TINY_FAMILIES in tests/support/families.py."
        )
    return TINY_FAMILIES[name]


def save_tiny_pipeline(name: str, folder: Path) -> Path:
    """Write the family's tiny pipeline to the folder and return it."""
    tiny = tiny_family(name)
    importlib.import_module(tiny.module).save_pipeline(folder, **tiny.options)
    return folder
