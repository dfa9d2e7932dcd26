import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.guides import FAST, GUIDES, README, ROOT, command_lines
from tests.support.runs import metrics
from tests.tiny.sd import save_pictures, save_pipeline

NOT_CLONED = {".git", ".venv", "runs", "prepared", "demo_output", "wandb", "build", "dist"}
SHORTENED = {
    "make demo": 'make demo ARGS="--steps 2"',
    "make test": 'make test WORKERS=0 ARGS="-q tests/unit/test_prompt_syntax.py"',
}


def repository(folder: Path) -> Path:
    shutil.copytree(ROOT, folder, ignore=lambda path, names: NOT_CLONED & set(names) if Path(path) == ROOT else set())
    author = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    for words in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)
    return folder


def with_packages(images: Path) -> list[str]:
    """Return lines that add images and the tests' packages to the clone. `make` has to install the project itself."""
    packages = " ".join(sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return [
        f"cp -r '{images}' my_images",
        "make --silent .venv/bin/python",
        "site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))')",
        'rm -rf "$site"/setuptools*  # of ensurepip, older than torch wants',
        f"printf '%s\\n' {packages} > \"$site/downloaded.pth\"",
        "printf '#!%s\\nfrom accelerate.commands.accelerate_cli import main\\nmain()\\n' \"$PWD/.venv/bin/python\""
        " > .venv/bin/accelerate",
        "chmod +x .venv/bin/accelerate",
    ]


def script(tmp_path: Path) -> list[str]:
    stand_ins = {
        "URL": str(repository(tmp_path / "origin")),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": str(save_pipeline(tmp_path / "model", size="micro")),
        "accelerate_configs/single_gpu.yaml": "accelerate_configs/cpu.yaml",
    }
    images = save_pictures(tmp_path / "images", count=8, size=64)
    lines: list[str] = []
    for line in command_lines(README.read_text()):
        command = line.partition("#")[0].strip()
        line = SHORTENED.get(command, line)
        for word, stand_in in stand_ins.items():
            line = re.sub(rf"(?<!\S){re.escape(word)}(?!\S)", stand_in, line)
        if "accelerate launch" in line:
            line += f" {FAST}"
        lines += [line, *(with_packages(images) if command.startswith("cd ") else [])]
    return lines


@pytest.mark.slow
def test_every_block_of_readme_runs_in_its_order_in_a_new_shell(tmp_path: Path) -> None:
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    (programs / "python3").symlink_to(sys._base_executable)  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("git", "make"):
        found = shutil.which(name)
        assert found, f"needs {name}"
        (programs / name).symlink_to(found)
    environment = {
        "HOME": str(home),
        "PATH": f"{programs}:/usr/bin:/bin",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip takes it for the value of build_isolation
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    lines = script(tmp_path)
    assert any(line.startswith("git clone") for line in lines) and any("my_images" in line for line in lines)
    ended = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eux", "-c", "\n".join(lines)],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    clone = home / "sd-finetune"
    assert (clone / "demo_output" / "before_after.png").exists()
    assert (clone / "prepared" / "ink" / "report.html").exists()
    assert (clone / "runs" / "ink-small" / "export" / "ink-small.safetensors").exists()
    assert (clone / "runs" / "ink" / "export" / "ink.safetensors").exists()
    assert [row["step"] for row in metrics(clone / "runs" / "ink")] == [2, 4]
    shell = subprocess.run(
        ["make", "shell"],
        cwd=clone,
        env=environment | {"SHELL": "/bin/bash"},
        input="finetune --help\npython -c 'import recipes; print(recipes.__file__)'\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "accelerate-config" in shell.stdout and str(clone / "recipes") in shell.stdout, shell.stdout + shell.stderr


def test_the_make_targets_of_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    code = "\n".join(re.findall(r"`[^`]+`|```.*?```", README.read_text(), re.S))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", code))
    assert {"demo", "test", "shell"} <= named <= targets


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 150


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [README, *GUIDES], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = page if not path else page.parent / path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", [README, *GUIDES], ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"\b(?:recipes|accelerate_configs|benchmarks|tests)/[\w./-]+\.(?:yaml|py)\b", page.read_text())
    named = [name for name in named if "NAME" not in name]  # of a family that the reader is about to add
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_links_every_guide() -> None:
    text = README.read_text()
    assert [guide.name for guide in GUIDES if f"](docs/{guide.name}" not in text] == []
