"""A guard against processes in unit tests, and an open folder."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STARTS = ("subprocess.Popen", "os.fork", "os.posix_spawn", "tests.run")
"""Events of `sys.audit`; the last one is that of tests/support/runs.py."""
is_guarded = False


def refuse_starts(event: str, arguments: tuple[object, ...]) -> None:
    """Raise where a guarded test starts a process."""
    if is_guarded and event in STARTS:
        pytest.fail(f"{event} {arguments[:2]}: a unit test starts no process. Move it to contract, invariants or e2e.")


sys.addaudithook(refuse_starts)


@pytest.fixture(autouse=True)
def starts_are_refused(request: pytest.FixtureRequest) -> Iterator[None]:
    """Guard the test, unless it is in `docs`, which runs commands."""
    global is_guarded
    is_guarded = HERE / "docs" not in request.path.parents
    yield
    is_guarded = False


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that every user may write to. pytest's own folders are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)
