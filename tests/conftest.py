"""Environment and tiny models of all tests. No hub, no account, one thread per process."""

import gc
import os
import signal
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
for name in ("WANDB_API_KEY", "HF_TOKEN", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU"):
    os.environ.pop(name, None)

import pytest  # noqa: E402

from tests.support.runs import TINY, Options  # noqa: E402
from tests.tiny.sd import save_pictures, save_pipeline  # noqa: E402

signal.signal(signal.SIGINT, signal.default_int_handler)  # for what fixtures of the session start


def pytest_collection_finish() -> None:
    """Leave the million objects of imported modules out of every garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ctrl_c() -> None:
    """Let Ctrl-C reach the commands of tests. A shell in the background would have blocked it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.x pipeline (epsilon)."""
    return save_pipeline(tmp_path_factory.mktemp("models") / "sd1", size="micro", seed=2)


@pytest.fixture(scope="session")
def tiny_v_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 2.x pipeline (v-prediction)."""
    return save_pipeline(
        tmp_path_factory.mktemp("models") / "sd2", prediction_type="v_prediction", sd2=True, size="micro"
    )


@pytest.fixture(scope="session")
def tiny_inpainting_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.x inpainting pipeline (9 channels)."""
    return save_pipeline(tmp_path_factory.mktemp("models") / "inpainting", size="micro", inpainting=True)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen captioned images of three aspect ratios."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    save_pictures(folder, count=14, size=64, aspects=(1.0, 1.6, 0.6))
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for a test session, as users share it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_run(tiny_model: Path, pictures: Path, shared_cache: Path, tmp_path: Path) -> Options:
    """Options of a LoRA run that takes seconds."""
    return TINY | {
        "model.source": tiny_model,
        "data.folder": pictures,
        "cache.folder": shared_cache,
        "output.folder": tmp_path / "out",
    }
