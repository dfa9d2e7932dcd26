from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from finetune.models.families.sd import StableDiffusion
from finetune.models.family import ModelSource
from tests.support.damage import change_json
from tests.tiny.sd import SIZES, build_pipeline, build_unet, save_pipeline

FAMILY = StableDiffusion()


def renamed(folder: Path, name: str) -> ModelSource:
    change_json(folder / "model_index.json", _class_name=name)
    return ModelSource(str(folder))


def test_an_inpainting_checkpoint_is_one_by_its_pipeline(tmp_path: Path, tiny_model: Path) -> None:
    source = ModelSource(str(save_pipeline(tmp_path / "model", size="micro", inpainting=True)))
    assert FAMILY.is_inpainting(source) and not FAMILY.is_inpainting(ModelSource(str(tiny_model)))
    assert FAMILY.load(source).denoiser.config.in_channels == 9


def test_channels_that_do_not_fit_the_pipeline_are_refused_with_the_way_out(tmp_path: Path) -> None:
    nine = save_pipeline(tmp_path / "nine", size="micro", inpainting=True)
    with pytest.raises(ValueError, match=r"takes 9 channels, expected 4.*StableDiffusionInpaintPipeline"):
        FAMILY.load(renamed(nine, "StableDiffusionPipeline"))
    four = save_pipeline(tmp_path / "four", size="micro")
    with pytest.raises(ValueError, match=r'takes 4 channels, expected 9.*"StableDiffusionPipeline"'):
        FAMILY.load(renamed(four, "StableDiffusionInpaintPipeline"))
    pipeline = build_pipeline(size="micro")
    assert isinstance(pipeline, StableDiffusionPipeline)
    pipeline.unet = build_unet(SIZES["micro"], sd2=False, in_channels=5)
    pipeline.save_pretrained(tmp_path / "depth")
    with pytest.raises(ValueError, match="Depth checkpoints are not supported"):
        FAMILY.load(ModelSource(str(tmp_path / "depth")))
