"""A small run that is trained once, and copies to damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.runs import TINY, Options, completed

STEPS = 6

Copy = Callable[..., Options]


@pytest.fixture(scope="session")
def small_run(tiny_model: Path, pictures: Path, shared_cache: Path) -> Options:
    """Options of the smallest LoRA run; output.folder is missing."""
    return TINY | {
        "model.source": tiny_model,
        "data.folder": pictures,
        "cache.folder": shared_cache,
        "lora.targets": ("to_q", "to_v"),
        "train.batch_size": 1,
        "train.steps": STEPS,
        "checkpoint.every": 2,
        "checkpoint.keep": 3,
    }


@pytest.fixture(scope="session")
def straight(small_run: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run, which tests must not change. It has checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("straight")
    completed("lora", small_run | {"output.folder": folder / "out"}, folder / "log")
    return folder / "out"


@pytest.fixture
def finished(small_run: Options, straight: Path, tmp_path: Path) -> Options:
    shutil.copytree(straight, tmp_path / "out")
    return small_run | {"output.folder": tmp_path / "out"}


@pytest.fixture
def interrupted(finished: Options, tmp_path: Path) -> Options:
    """Options of a run that was killed after step 4. It has checkpoints of steps 2 and 4."""
    out = tmp_path / "out"
    shutil.rmtree(out / "checkpoints" / "step_000006")
    shutil.rmtree(out / "export")
    (out / "run.json").unlink()
    return finished


def contents(folder: Path) -> dict[Path, bytes]:
    """Return a run folder's files without those that every start writes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "run.log")]
    return {path: path.read_bytes() for path in files}
