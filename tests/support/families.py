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
    family: str = ""
    """Of a variant, whose name is not its family's."""
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
VARIANTS = {
    "sd2": Tiny("tests.tiny.sd", {"size": "micro", "sd2": True, "prediction_type": "v_prediction"}, family="sd"),
    "sd3 without T5": Tiny("tests.tiny.sd3", {"t5": False}, family="sd3"),
    "sd3.5": Tiny("tests.tiny.sd3", {"version35": True}, family="sd3"),
    "schnell": Tiny("tests.tiny.flux", {"guidance": False}, family="flux"),
}
"""Other pipelines of the families, for what needs no run."""


def tiny_family(name: str) -> Tiny:
    """Return the facts of a family or variant. An unknown one fails the suite."""
    known = TINY_FAMILIES | VARIANTS
    if name not in known:
        raise AssertionError(
            f"the family {name} has no tiny pipeline, so nothing of it is tested. Write save_pipeline(folder, *, "
            f"seed=0) in tests/tiny/{name}.py and add a line to TINY_FAMILIES in tests/support/families.py."
        )
    return known[name]


def save_tiny_pipeline(name: str, folder: Path) -> Path:
    tiny = tiny_family(name)
    importlib.import_module(tiny.module).save_pipeline(folder, **tiny.options)
    return folder
