from pathlib import Path

import pytest

from finetune.batches.preview_prompts import refuse_unfit_previews
from finetune.config.loss import LossConfig
from finetune.config.outputs import PreviewConfig
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Components, ModelSource

FAMILY = StableDiffusion()


@pytest.fixture(scope="module")
def components(tiny_model: Path) -> Components:
    return FAMILY.load(ModelSource(str(tiny_model)))


def check(components: Components, *prompts: str, resolution: int = 64, **options: int) -> None:
    refuse_unfit_previews(FAMILY, components, PreviewConfig(prompts, **options), resolution, LossConfig())


def test_prompts_that_the_model_draws_pass(components: Components) -> None:
    check(components, "a cat", "a dog --w 32 --h 48 --ss DPM++ 2M Karras", "a bird --ss LCMScheduler --n cat")


def test_sizes_and_samplers_that_do_not_fit_are_all_named(components: Components) -> None:
    with pytest.raises(ValueError) as raised:
        check(components, "a cat --w 33", "a dog --ss FlowMatchEulerDiscreteScheduler", "a bird")
    first, second = str(raised.value).splitlines()
    assert '"a cat --w 33": width is 33, expected a multiple of 4' in first
    assert "FlowMatchEulerDiscreteScheduler does not fit" in second and "Use DDPM, DDIM" in second


def test_the_size_of_all_previews_counts_too(components: Components) -> None:
    with pytest.raises(ValueError, match="width is 33"):
        check(components, "a cat", size=33)
    check(components, "a cat --w 32 --h 32", size=33)


def test_options_of_images_are_not_for_previews() -> None:
    for option in ("--i a.png", "--am 0.5"):
        (problem,) = PreviewConfig((f"a cat {option}",)).problems()
        assert "but previews begin with noise" in problem
    (problem,) = PreviewConfig(("a cat --q 3",)).problems()
    assert problem.startswith('preview.prompts: "a cat --q 3": --q')
