import re
import tomllib
from pathlib import Path

import pytest

from finetune.extras import install_command

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_command_names_every_package_of_an_extra(extra: str) -> None:
    command = install_command(extra)
    names = [re.split(r"[<>=\[]", need)[0] for need in EXTRAS[extra]]
    assert names and all(name in command for name in names)
    assert extra == "dev" or f"[{extra}]" not in command


def test_several_extras_and_packages_are_one_command() -> None:
    command = install_command("trackio", "tensorboard", "wandb")
    assert re.fullmatch(r"pip install 'trackio\S*' 'tensorboard\S*' wandb", command)


def test_every_extra_that_the_code_names_exists() -> None:
    code = [path.read_text() for folder in ("finetune", "datasets_prep") for path in (ROOT / folder).rglob("*.py")]
    named = {name for text in code for name in re.findall(r'install_command\([\'"](\w+)[\'"]\)', text)}
    assert {"demo", "dedup", "ray", "tagger"} <= named <= EXTRAS.keys()
