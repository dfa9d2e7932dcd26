import ast
import functools
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from finetune.extras import install_command

ROOT = Path(__file__).parents[2]
PACKAGES = ("finetune", "recipes", "datasets_prep")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OF_USERS = {extra for extra in EXTRAS if extra != "dev"}
GPL = ("pillow-heif", "pillow-jxl-plugin")
"""Packages with code under the GPL, which only a user who asks for them gets."""
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
providers_of = functools.cache(packages_distributions)


def canonical(need: str) -> str:
    """Return a requirement's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", need)[0]).lower()


def imported(code: str) -> set[str]:
    """Return the top-level modules that a source imports. Those that it only looks for do not count."""
    names: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names += [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return {name.partition(".")[0] for name in names}


def third_party() -> dict[str, Path]:
    """Return each imported module of others, with a file that imports it."""
    found: dict[str, Path] = {}
    for path in [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]:
        modules = imported(path.read_text(encoding="utf-8")) - sys.stdlib_module_names - set(PACKAGES)
        found |= {module: path.relative_to(ROOT) for module in modules}
    return found


DECLARED = {canonical(need) for need in PROJECT["dependencies"]}
DECLARED |= {canonical(need) for extra in OF_USERS for need in EXTRAS[extra]}


@pytest.mark.parametrize("module", sorted(third_party()))
def test_an_imported_module_belongs_to_a_declared_dependency(module: str) -> None:
    providers = {canonical(name) for name in providers_of().get(module, [])}
    assert providers, f"{module} is not installed. Run: make setup"
    assert providers & DECLARED, f"{third_party()[module]} imports {module}, which comes with {sorted(providers)}"


@pytest.mark.parametrize("need", sorted(DECLARED))
def test_a_declared_dependency_has_a_version_that_was_tried(need: str) -> None:
    assert need in {canonical(line) for line in CONSTRAINTS.splitlines() if "==" in line}


def test_the_default_set_up_installs_nothing_under_the_gpl() -> None:
    listed = re.search(r"^EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert listed
    installed = PROJECT["dependencies"] + [need for extra in listed[1].split(",") for need in EXTRAS[extra]]
    assert not {canonical(need) for need in installed} & set(GPL)
    optional = {canonical(need) for extra in EXTRAS.keys() - set(listed[1].split(",")) for need in EXTRAS[extra]}
    assert optional == set(GPL)  # what else is optional belongs into the set-up, so its tests run


def test_imports_of_every_form_are_found() -> None:
    lines = ["import a.b", "from c.d import e", "from . import f", "def g():\n    import_module('h.i')"]
    assert imported("\n".join(lines)) == {"a", "c", "h"}


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
