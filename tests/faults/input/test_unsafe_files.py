import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.models import family_named
from finetune.models.family import ModelSource
from finetune.models.loading.components import find_family
from finetune.models.parts import load_sequentially
from tests.faults.test_damaged_checkpoints import Canary
from tests.support.damage import change_json
from tests.support.runs import Options, assert_refused, refused, run

INDEXES: dict[str, Any] = {
    "no object": "[]",
    "nested too deeply": "[" * 100_000,
    "no pipeline class": {"_class_name": None},
    "pipeline class is a path": {"_class_name": "../../evil.StableDiffusionPipeline"},
    "pipeline class is a list": {"_class_name": ["evil", "StableDiffusionPipeline"]},
    "no scheduler": {"scheduler": None},
    "scheduler from another module": {"scheduler": ["evil", "Evil"]},
    "scheduler is a built-in": {"scheduler": ["diffusers", "__builtins__"]},
    "scheduler is a module": {"scheduler": ["diffusers", "scheduling_utils"]},
    "scheduler is a path": {"scheduler": ["diffusers", "../../evil"]},
    "scheduler is not a scheduler": {"scheduler": ["diffusers", "TYPE_CHECKING"]},
}


@pytest.fixture
def model(small_run: Options, tmp_path: Path) -> Path:
    """A model folder with a module that leaves a trace if imported."""
    model = shutil.copytree(Path(str(small_run["model.source"])), tmp_path / "model")
    for folder in (model, model / "unet", model / "text_encoder", model / "tokenizer", model / "scheduler"):
        (folder / "evil.py").write_text(
            f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Evil:\n    from_pretrained = staticmethod(print)\n"
        )
    return model


@pytest.mark.parametrize("name", INDEXES)
def test_a_hostile_model_index_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    entries = INDEXES[name]
    if isinstance(entries, str):
        (model / "model_index.json").write_text(entries)
    else:
        change_json(model / "model_index.json", **entries)
    source = ModelSource(str(model))
    with pytest.raises((ValueError, FileNotFoundError), match=r"^model\.source: .*model_index\.json"):
        load_sequentially(family_named(find_family(source)), source)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["unet/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"])
def test_a_part_whose_config_is_nested_too_deeply_is_refused(name: str, model: Path) -> None:
    (model / name).write_text("[" * 100_000)
    source = ModelSource(str(model))
    with pytest.raises((ValueError, OSError), match=name.partition("/")[0]):
        load_sequentially(family_named(find_family(source)), source)


def test_code_that_comes_with_a_model_is_not_run(model: Path, small_run: Options, tmp_path: Path) -> None:
    """Parts that need such code are omitted or refused."""
    auto_map = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    change_json(model / "model_index.json", unet=["evil", "Evil"], vae=["../unet/evil", "Evil"])
    change_json(model / "text_encoder" / "config.json", auto_map=auto_map)
    change_json(model / "tokenizer" / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Evil")
    change_json(model / "unet" / "config.json", _class_name="Evil", auto_map=auto_map)
    change_json(model / "scheduler" / "scheduler_config.json", _class_name="Evil")
    options = small_run | {"model.source": model, "output.folder": tmp_path / "out"}
    ended = run("lora", options, tmp_path / "log")
    assert not (tmp_path / "canary").exists()
    if ended.exit_code:
        assert_refused(ended, "model.source")


@pytest.mark.parametrize(
    ("part", "safe", "pickled"),
    [
        ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("vae", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_pickled_weights_are_refused_and_not_run(
    part: str, safe: str, pickled: str, model: Path, small_run: Options, tmp_path: Path
) -> None:
    (model / part / safe).unlink()
    torch.save(Canary(tmp_path / "canary"), model / part / pickled)
    options = small_run | {"model.source": model, "output.folder": tmp_path / "out"}
    refused("lora", options, tmp_path / "log", "model.source", safe)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("DEISMultistepScheduler", "data.bucket_step"),  # seldom used but sound: the next mistake is what is refused
        ("EDMEulerScheduler", "EDMEulerScheduler"),
    ],
)
def test_a_scheduler_of_diffusers_is_taken_where_it_has_betas(
    name: str, word: str, model: Path, small_run: Options, tmp_path: Path
) -> None:
    change_json(model / "model_index.json", scheduler=["diffusers", name])
    options = small_run | {"model.source": model, "output.folder": tmp_path / "out", "data.bucket_step": 1}
    refused("lora", options, tmp_path / "log", word)


def test_no_code_asks_for_what_comes_with_a_model() -> None:
    files = [file for package in ("finetune", "recipes", "datasets_prep") for file in Path(package).rglob("*.py")]
    assert len(files) > 100
    assert [
        str(file) for file in files if re.search(r"trust_remote_code\s*=(?!\s*False)", file.read_text(encoding="utf-8"))
    ] == []
