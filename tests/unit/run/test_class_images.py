import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from finetune.config.dreambooth import PriorConfig
from finetune.files import LEFT_BEHIND_SECONDS
from finetune.models import family_named
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from finetune.randomness import generator
from finetune.run.class_images import make_class_images
from tests.tiny.sd import build_pipeline, save_pipeline
from tests.tiny.sdxl import save_pipeline as save_xl

OPTIONS = PriorConfig(prompt="a circle", num_pictures=3, num_inference_steps=2, batch_size=2)


def made(model: Path, cache: Path, config: PriorConfig = OPTIONS) -> Path:
    return make_class_images(StableDiffusion(), ModelSource(str(model)), config, cache, 32, Accelerator(cpu=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.fixture(scope="module")
def cache(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    made(tiny_model, folder)
    return folder


def test_what_is_there_is_not_made_again(tiny_model: Path, cache: Path) -> None:
    folder = made(tiny_model, cache)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert sorted(path.name for path in before) == ["000000.png", "000001.png", "000002.png"]
    assert made(tiny_model, cache) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.png")} == before


def test_a_missing_image_comes_back_as_it_was_and_the_others_are_untouched(tiny_model: Path, cache: Path) -> None:
    folder = made(tiny_model, cache)
    before = contents(folder)
    (folder / "000001.png").unlink()
    made(tiny_model, cache)
    assert contents(folder) == before


def test_more_images_join_those_that_are_there(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    few = contents(made(tiny_model, cache))
    more = contents(made(tiny_model, tmp_path, replace(OPTIONS, num_pictures=5)))
    assert len(more) == 5 and few.items() <= more.items()


def test_other_options_and_other_weights_have_another_folder(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    other_model = save_pipeline(tmp_path / "other", size="micro", seed=1)
    one = replace(OPTIONS, num_pictures=1)
    folders = {made(tiny_model, cache), made(other_model, cache, one)}
    for options in ({"prompt": "a square"}, {"seed": 1}, {"guidance_scale": 1.0}):
        folders.add(made(tiny_model, cache, replace(one, **options)))
    assert len(folders) == len({contents(folder)["000000.png"] for folder in folders}) == 5


def test_an_image_is_what_the_plain_pipeline_draws(tiny_model: Path, cache: Path) -> None:
    family = StableDiffusion()
    pipeline: Any = family.pipeline(family.load(ModelSource(str(tiny_model))))
    drawn = pipeline("a circle", 32, 32, 2, guidance_scale=7.5, generator=generator(0, "class picture", 1)).images[0]
    picture = Image.open(made(tiny_model, cache) / "000001.png")
    assert np.abs(np.asarray(drawn, dtype=int) - np.asarray(picture, dtype=int)).max() <= 1


def test_a_denoiser_in_host_memory_draws_the_same_images(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    family, source, accelerator = StableDiffusion(), ModelSource(str(tiny_model)), Accelerator(cpu=True)
    folder = make_class_images(family, source, OPTIONS, tmp_path, 32, accelerator, offload=True)
    assert contents(folder) == contents(made(tiny_model, cache))


def test_a_full_disk_is_said_before_an_image_is_made(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="class images take up to"):
        made(tiny_model, tmp_path, replace(OPTIONS, num_pictures=10**12))
    assert list(tmp_path.rglob("*.png")) == []


def test_what_a_kill_left_behind_is_removed_when_no_run_can_be_writing_it(tiny_model: Path, cache: Path) -> None:
    folder = made(tiny_model, cache)
    old, new = folder / ".tmp-000000.png-old", folder / ".tmp-000000.png-new"
    for path in (old, new):
        path.touch()
    past = time.time() - LEFT_BEHIND_SECONDS - 1
    os.utime(old, (past, past))
    made(tiny_model, cache)
    assert not old.exists() and new.exists()


def test_a_model_that_draws_no_numbers_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    family = StableDiffusion()
    components = family.load(ModelSource(str(tiny_model)))
    with torch.no_grad():
        components.vae.decoder.conv_out.weight.fill_(float("nan"))
    family.pipeline(components).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="not finite numbers"):
        made(tmp_path / "model", tmp_path)
    assert list(tmp_path.rglob("0*.png")) == []


def test_a_vae_that_overflows_in_fp16_draws_in_float32(tmp_path: Path) -> None:
    """The Accelerator's contexts of a GPU run are entered by hand."""
    model = tmp_path / "model"
    pipeline: Any = build_pipeline(size="micro")
    with torch.no_grad():
        for parameter in pipeline.vae.decoder.conv_in.parameters():
            parameter.mul_(1e7)  # norms behind it make its outputs small again
    pipeline.save_pretrained(model)
    with torch.autocast("cpu", torch.float16):
        assert len(contents(made(model, tmp_path, replace(OPTIONS, num_pictures=1)))) == 1
    pipeline.vae.register_to_config(force_upcast=False)
    pipeline.save_pretrained(model)
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="not finite numbers"):
        made(model, tmp_path, replace(OPTIONS, num_pictures=1))


@pytest.mark.parametrize(("name", "save"), [("sd", partial(save_pipeline, size="micro")), ("sdxl", save_xl)])
def test_an_inpainting_model_draws_them_too(name: str, save: Callable[..., Path], tmp_path: Path) -> None:
    source = ModelSource(str(save(tmp_path / "model", inpainting=True)))
    config = replace(OPTIONS, guidance_scale=2.0)
    folder = make_class_images(family_named(name), source, config, tmp_path, 32, Accelerator(cpu=True))
    assert len(set(contents(folder).values())) == 3
