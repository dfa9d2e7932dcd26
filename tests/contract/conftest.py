"""Fixtures for each registered family, on tiny pipelines of real classes."""

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import DiffusionPipeline

from finetune.models import FAMILIES, family_named
from finetune.models.family import Components, ModelFamily, ModelSource
from finetune.models.parts import PARTS, load_sequentially
from tests.support.families import save_tiny_pipeline, tiny_family
from tests.support.runs import TINY, Options, completed

RESUMED: Options = {"data.caption_dropout": 0.3, "data.crop": "random", "data.flip": True}
RESUMED |= {"train.steps": 5, "optim.lr": 2e-3}
RUNS = Path(__file__).with_name("test_runs.py")
PROMPT = "a red circle on white paper"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the whole runs of some families to `make test-all`."""
    for item in items:
        family = item.callspec.params.get("name") if isinstance(item, pytest.Function) and item.path == RUNS else None
        if family and not tiny_family(family).runs_are_fast:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def family(name: str) -> ModelFamily:
    return family_named(tiny_family(name).family or name)


@pytest.fixture(scope="session")
def model(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(name, tmp_path_factory.mktemp("contract") / name)


@pytest.fixture(scope="session")
def source(model: Path) -> ModelSource:
    return ModelSource(str(model))


@pytest.fixture
def components(family: ModelFamily, source: ModelSource) -> Components:
    """A fresh copy, frozen; tests put adapters into it."""
    return load_sequentially(family, source, keep=PARTS).components


@pytest.fixture
def pipeline(model: Path) -> Any:
    return reloaded_pipeline(model)


def reloaded_pipeline(model: Path) -> Any:
    """A fresh pipeline, loaded as a user would."""
    places = json.loads((model / "model_index.json").read_text()).items()
    absent = {name: None for name, place in places if place == [None, None]}
    found = DiffusionPipeline.from_pretrained(model, use_safetensors=True, **absent)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="session")
def options(name: str, model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Options of a LoRA run, without an output folder."""
    return TINY | {
        "model.source": model,
        "model.family": name,
        "data.folder": pictures,
        "cache.folder": tmp_path_factory.mktemp("cache"),
        "output.name": "style",
        "output.dtype": "fp32",
    }


@pytest.fixture(scope="session")
def lora_run(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    shown = {"preview.prompts": (PROMPT,), "preview.num_inference_steps": 1}
    completed("lora", options | RESUMED | shown | {"output.folder": folder / "a"}, folder / "log")
    assert len(list((folder / "a" / "previews").glob("step_*_prompt00_seed0.png"))) == 2
    return folder / "a"
