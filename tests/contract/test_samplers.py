"""Every sampler on a tiny pipeline of every family."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.config.drawing.generate import GenerateConfig
from finetune.config.drawing.samplers import SAMPLERS
from finetune.config.sections import ModelConfig
from finetune.models.family import ModelFamily, ModelSource
from finetune.models.samplers import fitting, with_sampler
from finetune.sampling.generate import generate

ALWAYS = {"Euler"}
OF_DIFFUSION = {"DDPM", "DDIM", "PNDM", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M Karras", "DPM++ SDE", "UniPC", "LCM"}


def test_every_sampler_that_fits_draws_and_others_are_refused(
    family: ModelFamily, source: ModelSource, model: Path, tmp_path: Path
) -> None:
    scheduler = family.scheduler(source)
    fits = {sampler.title for sampler in SAMPLERS if fitting(family, scheduler, sampler) is not None}
    assert fits >= (ALWAYS if family.scheduler_option != "beta_schedule" else ALWAYS | OF_DIFFUSION)
    prompts = tuple(f"a red circle --ss {title} --d 1" for title in sorted(fits))
    options = {"width": 32, "height": 32, "num_inference_steps": 4, "guidance_scale": 2.0}
    paths = generate(GenerateConfig(ModelConfig(str(model)), prompts, tmp_path, **options))  # pyright: ignore[reportArgumentType]
    images = [np.asarray(Image.open(path)) for path in paths]
    assert len(images) == len(fits) and all(image.std() > 0 for image in images)
    for title in {sampler.title for sampler in SAMPLERS} - fits:
        with pytest.raises(ValueError, match=r"does not fit .* Use .*Euler"):
            with_sampler(family, scheduler, title)
