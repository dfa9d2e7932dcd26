"""Shipped YAML files by name: presets and configs of Accelerate."""

import itertools
from pathlib import Path

from finetune.config.parse.command_line import read_yaml
from finetune.config.parse.convert import suggestion

PACKAGES = Path(__file__).parents[3]
"""Where the packages are installed side by side, or the checkout."""
PRESETS = PACKAGES / "recipes" / "configs"
ACCELERATE_CONFIGS = PACKAGES / "accelerate_configs"
OF_ACCELERATE = "a config of Accelerate, not of a recipe. Use: accelerate launch --config_file FILE -m RECIPE OPTIONS"


def find_preset(given: str) -> Path:
    """Return the file that `--config` names, by path or a preset's name. Raises ValueError without one."""
    path = Path(given)
    if path.is_file():
        return path
    known = carried(PRESETS)
    if path.stem in known and given in (path.stem, path.name):
        return known[path.stem]
    if given in carried(ACCELERATE_CONFIGS):
        raise ValueError(f"config: {given} is {OF_ACCELERATE}")
    if given and (path / "config.yaml").is_file():
        raise ValueError(f"config: {given} is a folder. For the options of that run: --config {path / 'config.yaml'}")
    if not given or path.is_dir():
        raise ValueError(f"config: got {'a folder, ' + given if given else 'nothing'}.{hint(path, known)}")
    raise ValueError(f"config: no file {given}.{hint(path, known)}")


def find_accelerate_config(name: str) -> Path:
    """Return the file of a shipped config of Accelerate. Raises ValueError for another name."""
    known = carried(ACCELERATE_CONFIGS)
    stem = name.removesuffix(".yaml")
    if stem not in known:
        raise ValueError(f"accelerate-config: got {name}, expected one of {', '.join(known)}.")
    return known[stem]


def presets_of_family(family: str) -> list[str]:
    """Return the names of the presets for models of a family."""
    return [name for name, path in carried(PRESETS).items() if read_yaml(path)[0].get("model.family") == [family]]


def purpose(path: Path) -> str:
    """Return the first sentence of a preset's comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))
    return comment.partition(". ")[0].removesuffix(".") + "."


def carried(folder: Path) -> dict[str, Path]:
    """Return the YAML files of a folder by name, in order."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def hint(path: Path, known: dict[str, Path]) -> str:
    """Say what to give instead of a missing path."""
    if path.stem in known:
        return f" Use --config {path.stem} for the preset of that name."
    return f"{suggestion(path.stem, known)} Expected a YAML file or the name of a preset: {', '.join(known)}."
