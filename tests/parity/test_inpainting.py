from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
from PIL import Image
from torch import Tensor

from finetune.batches.batch import Batch
from finetune.batches.encoder import Encoder
from finetune.batches.inpaint_masks import WHOLE, Filling, hole
from finetune.config.loss import LossConfig
from finetune.models.families.sd import StableDiffusion
from finetune.models.family import Network
from finetune.models.prompts import whole_sizes
from finetune.tasks.denoising import Denoising
from tests.tiny.components import components_of
from tests.tiny.sd import build_pipeline

FAMILY = StableDiffusion()
SIDE = 64


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionInpaintPipeline:
    """Its posterior is so narrow that a sample is its mean.

    Eight pixels per latent. In float64: normalisation of a grey image, whose values are all equal, magnifies rounding.
    """
    built: Any = build_pipeline(size="factor8", inpainting=True).to(torch.float64)
    built.scheduler = DDIMScheduler.from_config(built.scheduler.config)
    with torch.no_grad():
        built.vae.quant_conv.weight[4:] = 0
        built.vae.quant_conv.bias[4:] = -30
    return built


@contextmanager
def calls_of(unet: Any) -> Iterator[list[tuple[Tensor, int]]]:
    """Give the latents and timesteps that the U-Net is called with."""
    calls: list[tuple[Tensor, int]] = []
    handle = unet.register_forward_pre_hook(lambda _, arguments: calls.append((arguments[0], int(arguments[1]))))
    yield calls
    handle.remove()


@pytest.mark.parametrize("number", [0, 1, 2, 3, WHOLE])
def test_training_feeds_the_denoiser_what_diffusers_does(pipeline: Any, number: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image, pixels = Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1
    hidden = hole("ab" * 32, number, SIDE, SIDE)
    mask = Image.fromarray((hidden[0] * 255).byte().numpy())
    given = {"image": image, "mask_image": mask, "width": SIDE, "height": SIDE, "strength": 0.5}
    given |= {"num_inference_steps": 4, "guidance_scale": 1.0, "output_type": "latent"}
    with calls_of(pipeline.unet) as theirs, torch.no_grad():
        pipeline("a red circle", **given, generator=torch.Generator().manual_seed(7))
    drawn = torch.Generator().manual_seed(7)
    _, noise = (torch.randn(1, 4, 8, 8, generator=drawn, dtype=torch.float64) for _ in range(2))  # first its posterior

    expected, t = theirs[0]
    components = components_of(pipeline)
    encoder = Encoder(FAMILY, components, torch.device("cpu"), text_encoder_is_trained=False)
    task = Denoising(FAMILY.objective(pipeline.scheduler, LossConfig()), encoder)
    columns = (0,), (0,), ("a red circle",), ("key",), torch.ones(1), whole_sizes(1, SIDE, SIDE)
    batch = Batch(*columns, None, pixels, None, filling=Filling(("key",), None, hidden[None]))
    with calls_of(pipeline.unet) as ours, torch.no_grad():
        u = torch.tensor([(t + 0.5) / 1000], dtype=torch.float64)
        task.losses(Network(FAMILY, components.denoiser), task.inputs(batch), u, lambda shape, purpose="noise": noise)
    ((given, at),) = ours
    assert given.shape == (1, 9, 8, 8) and at == t
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(given[:, 4], expected[:, 4])


def test_previews_hide_everything_so_that_the_prompt_alone_draws(pipeline: Any) -> None:
    components = components_of(pipeline)
    arguments = FAMILY.pipeline_prompts(components, "a red circle", "")
    drawer = FAMILY.pipeline(components)
    assert isinstance(drawer, StableDiffusionInpaintPipeline)
    with calls_of(pipeline.unet) as calls, torch.no_grad():
        made: Any = drawer(**arguments, width=SIDE, height=96, num_inference_steps=2, generator=torch.manual_seed(3))
    assert made.images[0].size == (SIDE, 96)
    given, _ = calls[0]
    grey = FAMILY.encode_images(components.vae, torch.zeros(1, 3, 96, SIDE), [torch.Generator()])
    noise = torch.randn(1, 4, 12, 8, generator=torch.manual_seed(3), dtype=torch.float64)
    expected = torch.cat([noise, torch.ones(1, 1, 12, 8), grey], dim=1).expand(2, -1, -1, -1)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
